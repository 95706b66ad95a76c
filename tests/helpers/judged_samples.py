"""Samples of two labels, and a tiny reward model."""

from pathlib import Path

from chat_tokenizers import CHATML, chat_tokenizer

OWN = {"one?": ["a long answer", "short"], "two?": ["yes", "no"], "three?": ["same", "b"]}
OTHER = {"one?": ["brief", "a very long answer"], "two?": ["yes, of course", "no"], "three?": ["same", "c"]}


def reward_model(
    folder: Path, *, template: str | None = CHATML, outputs: int = 1, pad: bool = True, both_ways: bool = False
) -> Path:
    """A tiny Llama, or with `both_ways` a tiny BERT, that gives a conversation one number."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

    tokenizer = chat_tokenizer(template)
    torch.manual_seed(3)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = (BertConfig if both_ways else LlamaConfig)(
        vocab_size=len(tokenizer) + 1,
        num_labels=outputs,
        pad_token_id=len(tokenizer) if pad else None,
        max_position_embeddings=256,
        initializer_range=0.3,
        **shape,
    )
    kind = BertForSequenceClassification if both_ways else LlamaForSequenceClassification
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

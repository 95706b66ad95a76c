"""fairseq2's format: JSON lines with `src`, `tgt_chosen`, `tgt_rejected` and the two reference scores.

fairseq2 tokenises text itself: the source in the mode `prompt`, a target in the mode `prompt_response`, which ends it
in EOS; the sequence is one after the other. A reference score belongs to tokens, so a pair is compared with the ids
that its texts have when they are tokenised so, by the tokenizer of the run in the place of fairseq2's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scoreonce.stages.exchange.scored_pairs import Batch

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Fairseq2Text:
    """Text as fairseq2 tokenises it. With `bos` its mode `prompt` puts BOS before a source, as Llama's does."""

    tokenizer: PreTrainedTokenizerBase
    bos: bool

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int]) -> Fairseq2Text:
        """As the prompt of one pair needs it."""
        return cls(tokenizer, tokenizer.bos_token_id is not None and prompt_ids[0] == tokenizer.bos_token_id)

    def rows(self, batch: Batch) -> list[dict[str, Any]]:
        """The row of each pair."""
        pairs = batch.pairs.iter_rows(named=True)
        return [
            {
                "id": pair["pair_id"],
                "src": self._source(pair["prompt"]),
                "tgt_chosen": pair["chosen"],
                "tgt_rejected": pair["rejected"],
                "reference_score_chosen": pair["ref_chosen_logps"],
                "reference_score_rejected": pair["ref_rejected_logps"],
            }
            for pair in pairs
        ]

    def differences(self, batch: Batch) -> list[str | None]:
        """For each pair what has other tokens than were scored: "prompt", "chosen" or "rejected"; None for none."""
        prefix = [self.tokenizer.bos_token_id] if self.bos else []
        made = {
            "prompt": [prefix + ids for ids in self._encoded([*map(self._source, batch.pairs["prompt"])])],
            "chosen": [[*ids, self.tokenizer.eos_token_id] for ids in self._encoded(batch.pairs["chosen"].to_list())],
            "rejected": [
                [*ids, self.tokenizer.eos_token_id] for ids in self._encoded(batch.pairs["rejected"].to_list())
            ],
        }
        scored = {"prompt": batch.ids("prompt_ids"), "chosen": batch.ids("chosen_ids")}
        scored["rejected"] = batch.ids("rejected_ids")
        return [
            next((part for part in made if made[part][place] != scored[part][place]), None)
            for place in range(batch.pairs.height)
        ]

    def _source(self, prompt: str) -> str:
        return prompt.removeprefix(str(self.tokenizer.bos_token)) if self.bos else prompt

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        encoded: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return encoded

"""The columns of sampled completions and of judgements: a row per completion, or per comparison of two.

Apart from `columns.py`, whose columns hold a number per pair or completion and may be named by a method.
"""

from __future__ import annotations

from scoreonce.schemas.columns import Column

PROMPT_ID = Column("prompt_id", "string", "digest of prompt_ids", "128-bit hex")
SAMPLE = Column("sample", "int32", "number of the completion among those of its prompt, from 0", minimum=0)
COMPLETION_ID = Column("completion_id", "string", "digest of (prompt_ids, completion_ids)", "128-bit hex")
PROMPT = Column("prompt", "string", "the prompt as the model reads it, chat template included")
CONVERSATION = Column(
    "conversation",
    "string",
    "messages of the prompt, as JSON with role and content; null where the prompt is plain text",
    nullable=True,
)
COMPLETION = Column("completion", "string", "the completion as text, without special tokens")
PROMPT_IDS = Column("prompt_ids", "list[int32]", "token ids of the prompt", minimum=0)
COMPLETION_IDS = Column("completion_ids", "list[int32]", "token ids of the completion, EOS last if it came", minimum=0)
COMPLETION_LEN = Column("completion_len", "int32", "tokens of the completion, EOS included", minimum=1)
FINISHED = Column("finished", "bool", "the model ended the completion; else max_new_tokens cut it")
SAMPLER_LOGPS = Column(
    "sampler_logps",
    "float64",
    "log-prob of the completion under the model that sampled it, at temperature 1, summed over its tokens",
    "nats",
    maximum=0,
)
REF_LOGPS = Column(
    "ref_logps",
    "float64",
    "log-prob of the completion under the reference, summed over its tokens; null where it was not scored",
    "nats",
    maximum=0,
    nullable=True,
)

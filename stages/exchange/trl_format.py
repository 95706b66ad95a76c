"""TRL's format: token ids and reference sums under the names that its collator reads.

TRL 1.16 tokenises the text of every dataset itself, in its own way, and has no option to take reference columns that
are there: with `precompute_ref_log_probs` it runs the reference and then refuses a second column of the same name,
without it the columns are not read. So the dataset has no text, which another version could tokenise otherwise, but
the ids that were scored, and the two methods of its trainer that tokenise and precompute are replaced, in `TRAINER`.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from scoreonce.schemas.manifests import ExportManifest
from scoreonce.stages.exchange.scored_pairs import IDS, SUMS, Batch

_LIST = pa.list_(pa.field("item", pa.int32(), nullable=False))
SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        *(pa.field(name, _LIST, nullable=False) for name in IDS),
        *(pa.field(name, pa.float64(), nullable=False) for name in SUMS),
    ]
)

TRAINER = '''\
from trl import DPOTrainer


class DPOTrainerOnScores(DPOTrainer):
    """TRL's trainer on scored pairs: it tokenises nothing and never runs a reference."""

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        if args.max_length is not None or args.ld_alpha is not None:
            raise ValueError("the reference sums are over all tokens: set max_length=None, and no ld_alpha")
        return dataset

    def _precompute_ref_logps(self, dataset, name, batch_size):
        return dataset
'''

_README = """\
# Preference pairs with reference log-probs

Written by scoreonce for TRL 1.16. A row is a pair: the token ids that were scored (`prompt_ids`, `chosen_ids`,
`rejected_ids`, at most {longest:,} tokens), and the log-probs of both completions under the reference, in nats, summed
over their tokens (`ref_chosen_logps`, `ref_rejected_logps`). Reference: `{model}` in {dtype}.

TRL tokenises text itself and does not read reference columns that are there. These lines make it take both as they
are:

```python
{trainer}```

```python
from datasets import load_dataset
from trl import DPOConfig

pairs = load_dataset({folder!r})
arguments = DPOConfig(precompute_ref_log_probs=True, max_length=None)
trainer = DPOTrainerOnScores(model={model!r}, args=arguments, train_dataset=pairs["train"])
```
"""


def trl_table(batch: Batch) -> pa.Table:
    """Rows of `SCHEMA`."""
    columns = [
        pa.array(batch.pairs["pair_id"].to_list(), pa.string()),
        *(pa.array(batch.ids(name), _LIST) for name in IDS),
        *(pa.array(batch.pairs[name].to_list(), pa.float64()) for name in SUMS),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def readme(folder: Path, manifest: ExportManifest) -> str:
    """The page that stands in the folder: what the columns are, and the trainer that reads them."""
    return _README.format(
        longest=manifest.max_length, model=manifest.model, dtype=manifest.dtype, trainer=TRAINER, folder=str(folder)
    )

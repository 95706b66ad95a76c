"""Arrow schemas of declared tables."""

import pyarrow as pa

from scoreonce.schemas.tables import PairTokens, Quarantine, arrow_schema


def test_types_and_nullability_are_the_declared_ones():
    assert arrow_schema(Quarantine) == pa.schema(
        [
            pa.field("row", pa.int64(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("detail", pa.string()),
            pa.field("source", pa.string()),
        ]
    )


def test_token_ids_are_lists_without_gaps():
    ids = arrow_schema(PairTokens).field("chosen_ids")
    assert not ids.nullable
    assert ids.type == pa.list_(pa.field("item", pa.int32(), nullable=False))

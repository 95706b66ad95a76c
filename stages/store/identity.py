"""What a reference store holds the numbers of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

FORMAT = 1


@dataclass(frozen=True)
class StoreIdentity:
    """What changes the log-probs of a completion, besides its token ids."""

    weights: str
    dtype: str
    head: str = "float32"
    adapter: str | None = None
    quantization: str | None = None  # of linear layers; "nf4"

    def document(self) -> dict[str, str | None]:
        """The same as plain data; without quantisation as it was before there was one."""
        stated = asdict(self)
        if self.quantization is None:
            del stated["quantization"]
        return stated

    @property
    def key(self) -> str:
        """Name of the store's folder, 32 hex digits."""
        canonical = json.dumps({"format": FORMAT, **self.document()}, sort_keys=True, separators=(",", ":"))
        return hashlib.blake2b(canonical.encode(), digest_size=16, person=b"store").hexdigest()

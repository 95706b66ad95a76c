"""The health of a run's reference stores, without reading what is in their files."""

from __future__ import annotations

from pathlib import Path

from scoreonce.schemas.errors import InputError
from scoreonce.stages.common.paths import RunPaths
from scoreonce.stages.doctor.facts import StoreHealth, Stores


def stores_of(paths: RunPaths) -> Stores:
    """The stores of a run; of those at an address what the local copy has."""
    if not paths.store.is_dir():
        return Stores(str(paths.store), paths.store_address, ())
    from scoreonce.stages.store.maintenance import store_folders  # polars and pyarrow

    return Stores(str(paths.store), paths.store_address, tuple(map(_health, store_folders(paths.store))))


def _health(folder: Path) -> StoreHealth:
    from scoreonce.stages.store.maintenance import summary
    from scoreonce.stages.store.sidecar import size_damage
    from scoreonce.stages.store.store import ReferenceStore

    try:
        store, damaged = ReferenceStore.at(folder), []
    except InputError:
        store, damaged = ReferenceStore.unnamed(folder), ["identity.json"]
    files = [path for layer in store.layers() for path in layer.files()]
    damaged += [str(path.relative_to(folder)) for path in files if size_damage(path) is not None]
    stated, aside = summary(folder), folder / "damaged"
    return StoreHealth(
        key=folder.name,
        model=stated["model"],
        files=len(files),
        completions=stated["completions"],
        bytes=stated["bytes"],
        damaged=tuple(damaged),
        leftovers=len(store.leftovers()),
        set_aside=sum(path.suffix != ".json" for path in aside.iterdir()) if aside.is_dir() else 0,
    )

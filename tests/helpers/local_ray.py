"""A Ray cluster of this machine for one test."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="needs ray: pip install 'scoreonce[ray]'")
OPTIONS = {"object_store_memory": 80 * 2**20, "include_dashboard": False}


@contextmanager
def cluster(cpus: int, setup: Callable[[], None] | None = None) -> Iterator[None]:
    """So many CPUs; `setup` runs in each process that Ray starts."""
    import ray

    ray.init(
        address="local",
        num_cpus=cpus,
        **OPTIONS,
        runtime_env=None if setup is None else {"worker_process_setup_hook": setup},
    )
    try:
        yield
    finally:
        ray.shutdown()

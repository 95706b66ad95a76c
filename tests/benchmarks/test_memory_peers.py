"""How memory by model size is told."""

import memory_peers


def test_a_line_by_hand():
    """Above 100 MiB of libraries: 60 MiB, 40 MiB and 20 MiB, of 2 * 2**20 parameters: 30, 20 and 10 bytes each."""
    mib = memory_peers.MIB
    sides = (memory_peers.LOADED, memory_peers.PRECOMPUTED, memory_peers.OURS)
    bases = dict.fromkeys(sides, 100 * mib)
    found = dict(zip(sides, (160 * mib, 140 * mib, 120 * mib), strict=True))
    model = {"parameters": 2 * mib, "width": 64, "layers": 3, "vocabulary": 1_000, "peak, bytes": found}
    expected = "| 2.1 M, width 64, 3 layers, vocabulary 1,000 | 60 (30) | 40 (20) | 20 (10) | 3.00 | 2.00 |"
    assert memory_peers.line(model, bases) == expected

"""The documents show the figures on disk, and a table says what its figures say."""

import pytest
from compared import tables


@pytest.mark.parametrize("section", tables.SECTIONS, ids=lambda section: section.path.name)
def test_documents_show_the_results_on_disk(section):
    """Where it fails: python -c 'from compared import tables; tables.into_documents()' in benchmarks/."""
    text = section.path.read_text(encoding="utf-8")
    assert text.count(section.start) == text.count(section.end) == 1
    assert section.found_in(text) == section.on_disk()


def test_section_is_put_between_the_markers_and_nowhere_else():
    section = tables.SECTIONS[0]
    text = f"before\n{section.start}old\n{section.end}\nafter\n"
    new = section.put_into(text, "new\n")
    assert new == f"before\n{section.start}new\n{section.end}\nafter\n"
    assert section.found_in(new) == "new\n"


def test_docs_section(measured):
    """Scoring 2 against 8 pairs/s, training 1 against 4; peaks of 200 bytes and less are 0 MiB."""
    section = tables.docs_section({"AVX-512": measured, "AVX2": measured})
    assert [line for line in section.splitlines() if line.startswith("#")] == ["### With AVX-512", "### With AVX2"]
    assert "| short pairs | scoring | 1.00 | 2.00 | 8.00 | **8.00** | 4.00 | 0 | 0 | 0 | **0.25** | 0.50 |" in section
    assert "| short pairs | training | 0.50 | 1.00 | 4.00 | **8.00** | 4.00 | 0 | 0 | 0 | **0.12** | 0.25 |" in section
    assert "TRL 150 s with 15 reference passes, TRL, tuned 100 s with 15 reference passes, " in section
    assert "scoreonce 20 s with 1 reference passes; ratio **7.50**, to tuned 5.00" in section
    assert "Measured 2026-01-02 on an abacus, 2 cores" in section
    assert "trl None" not in section


def test_readme_section(measured):
    """The rates of scoreonce and the ratios of the docs page, for each machine beside each other."""
    section = tables.readme_section({"AVX-512": measured, "AVX2": measured})
    assert "| short pairs | scoring | 8.00 | **8.0** | 4.0 | 8.00 | **8.0** | 4.0 |\n" in section
    assert "| short pairs | training | 4.00 | **8.0** | 4.0 | 4.00 | **8.0** | 4.0 |\n" in section
    assert "Measured 2026-01-02 with AVX-512, 2026-01-02 with AVX2: " in section
    assert "float32 on 2 cores of an abacus" in section


def test_page_gives_shares_of_the_gemm_rate(measured):
    """Training: TRL 1,320 operations a second, ours 4 * 852, of 10,000; the body's forward 3,584, at 64 tokens/s."""
    page = tables.page(measured)
    assert "| short pairs | training | 7% | 13% | 34% |" in page
    assert "| forward, body | 64, 36% |" in page
    assert "| DPO step / SFT step | 1.020 |" in page
    assert "| short pairs | scoring | 2 | 2: 4.00, 4: 2.00 |" in page


def test_every_row_has_as_many_cells_as_its_head(measured):
    for block in tables.page(measured).split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1

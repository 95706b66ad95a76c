"""The README shows the figures on disk, and a table says what its figures say."""

from compared import tables


def test_readme_shows_the_results_on_disk():
    """Where it fails: python -c 'from compared import tables; tables.into_readme()' in benchmarks/."""
    assert tables.section_in(tables.README.read_text(encoding="utf-8")) == tables.section_on_disk()


def test_section_is_put_between_the_markers_and_nowhere_else():
    text = f"before\n{tables.START}old\n{tables.END}\nafter\n"
    new = tables.with_section(text, "new\n")
    assert new == f"before\n{tables.START}new\n{tables.END}\nafter\n"
    assert tables.section_in(new) == "new\n"


def test_readme_section(measured):
    """Scoring 2 against 8 pairs/s, training 1 against 4; peaks of 200 bytes and less are 0 MiB."""
    section = tables.readme_section(measured)
    assert "| short pairs | scoring | 1.00 | 2.00 | 8.00 | **8.00** | 4.00 | 0 | 0 | 0 | **0.25** | 0.50 |" in section
    assert "| short pairs | training | 0.50 | 1.00 | 4.00 | **8.00** | 4.00 | 0 | 0 | 0 | **0.12** | 0.25 |" in section
    assert "TRL 150 s with 15 reference passes, TRL, tuned 100 s with 15 reference passes, " in section
    assert "scoreonce 20 s with 1 reference passes; ratio **7.50**, to tuned 5.00" in section
    assert "Measured 2026-01-02 on an abacus, 2 cores" in section
    assert "trl None" not in section


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

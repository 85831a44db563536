from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PySide6.QtWidgets import QApplication

from app.library.entry import DeltaEntry
from app.library.reading import read_delta, read_rows
from app.models.layers import LayerRow
from app.report import write_report
from app.report.content import BAND, make_report
from tests.app.library.deltas import make_delta

TIMES = {"warm": {"full": {"median": 0.3, "lowest": 0.2, "highest": 0.4, "runs": [0.3]},
                  "switch": {"median": 0.04, "lowest": 0.03, "highest": 0.05, "runs": [0.04]}},
         "cold": {}, "repeats": 5, "date": "2026-11-22T05:00:00+00:00", "note": "No cold figures."}
NASTY = "<script>alert(1)</script> & \"quotes\" https://example.org/x.png"


def rows(blocks: int) -> tuple[LayerRow, ...]:
    losses = ({"row": 0.1, "column": 0.2},)
    return tuple(LayerRow(f"layers.{b}.{kind}", b, kind, (4, 4), "sign", (axis,), losses, 0.9, 0.1, 0.1, 0.01, 42_600, None, 0.5,
                          axis) for b in range(blocks) for kind, axis in (("q", "row"), ("down", "column")))


@pytest.fixture
def entry(tmp_path: Path) -> DeltaEntry:
    return replace(read_delta(make_delta(tmp_path, "pirate", base_name="org/base", warnings=("Few tokens.",))), load_times=TIMES,
                   note="In use")


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that elements are closed in order."""

    VOID = ("meta", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data + "\n"


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_the_page_says_everything(entry: DeltaEntry, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(entry, rows(30), path)
    reader = read(path)
    for words in ("pirate", "org/base", "In use", "Few tokens.", "0.975", "0.0100", "Row 30", "Column 30", "Tuned end to end",
                  "0.040 s", "No cold figures.", "42.6 kB", "Exact fit", entry.sha256, "29 down", "not verified here"):
        assert words in reader.words, words
    assert reader.tags.count("rect") == 60 + 2 + 2, "a cell for each layer, bars for sizes and times"
    assert reader.words.count("\nR\n") == 31 and reader.words.count("\nC\n") == 31, "letters in cells and legend"


def test_the_page_loads_and_runs_nothing(entry: DeltaEntry, tmp_path: Path) -> None:
    hostile = replace(entry, name=NASTY, base_name=NASTY, fine_tuned=NASTY, note=NASTY, method=NASTY, architecture=NASTY,
                      settings=((NASTY, NASTY),), warnings=(NASTY,))
    write_report(hostile, (replace(rows(1)[0], kind=NASTY, winner=NASTY, axes=()),), tmp_path / "report.html")
    reader = read(tmp_path / "report.html")
    assert not {"script", "img", "link", "iframe", "object", "image", "use", "a"} & set(reader.tags)
    assert not [n for n, v in reader.attributes if n.startswith("on") or n in ("src", "href", "xlink:href")]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in reader.attributes
    style = re.search(r"<style>(.*?)</style>", (tmp_path / "report.html").read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None and "url(" not in style[1] and "@import" not in style[1] and "$" not in style[1]


def test_a_bare_delta_has_a_report(tmp_path: Path) -> None:
    folder = make_delta(tmp_path, "bare", fidelity={}, method={}, calibration={})
    write_report(read_delta(folder), read_rows(folder), tmp_path / "report.html")
    assert "Not measured." in read(tmp_path / "report.html").words


def test_deep_models_continue_below(entry: DeltaEntry) -> None:
    report = make_report(entry, rows(2 * BAND + 3))
    assert [len(b.blocks) for b in report.bands] == [BAND, BAND, 3]
    assert {c.column for c in report.bands[2].cells} == {0, 1, 2}
    assert len(report.layers.rows) == 2 * (2 * BAND + 3)


@pytest.mark.parametrize(("blocks", "pages"), [(0, 2), (30, 2), (200, 4)])
def test_the_pdf_has_few_pages(entry: DeltaEntry, tmp_path: Path, qapp: QApplication, blocks: int, pages: int) -> None:
    path = tmp_path / "report.pdf"
    write_report(entry, rows(blocks), path)
    data = path.read_bytes()
    assert data.startswith(b"%PDF-") and data.rstrip().endswith(b"%%EOF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b(?!s)", data)) <= pages


def test_long_words_do_not_spill(entry: DeltaEntry, tmp_path: Path, qapp: QApplication) -> None:
    long = replace(entry, name="x" * 400, note="y" * 400, warnings=("z" * 5000,) * 3, settings=(("s" * 80, "v" * 200),) * 60)
    write_report(long, rows(2), tmp_path / "a.pdf")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", (tmp_path / "a.pdf").read_bytes())) <= 4


def test_a_place_that_can_not_be_written_is_an_oserror(entry: DeltaEntry, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_report(entry, rows(1), tmp_path / "missing" / "report.html")
    assert not (tmp_path / "missing").exists()


def test_mixed_codecs_and_unknown_ones_are_reported(entry: DeltaEntry, tmp_path: Path) -> None:
    ways = [("svdmix", "deltamix", 2), ("coded", "coded", 3), ("full", "", 32), ("same", "", 0), ("<b>", "odd", 5)]
    mixed = (*rows(2), *(LayerRow(f"layers.5.{c}", 5, f"k{i}", (4, 4), c, winner=c, method=m, bytes=n)
                         for i, (c, m, n) in enumerate(ways)))
    budgeted = replace(entry, method="Budgeted mix", asked="12x", expected_kl=0.02, mix=(("DeltaMix", 3), ("Left out", 1)))
    made = make_report(budgeted, mixed)
    assert [word for _, word, _ in made.counts] == ["Row", "Column", "DeltaMix", "Coded levels", "In full", "Same", "<b>"]
    assert ("Method", "Budgeted mix, 12x") in made.facts and ("Matrices by method", "3 DeltaMix, 1 left out") in made.facts
    cells = {c.title.split(":")[0]: c for band in made.bands for c in band.cells}
    assert cells["Block 5, k0"].letter == "M" and cells["Block 5, k0"].ground != cells["Block 5, k1"].ground
    assert made.layers.heads[-1] == "Bits" and {r[-1] for r in made.layers.rows if r[0] == "5 k2"} == {"16.0"}
    for ending in ("html", "pdf"):
        write_report(budgeted, mixed, tmp_path / f"mixed.{ending}")
        assert (tmp_path / f"mixed.{ending}").stat().st_size > 2_000
    assert "DeltaMix" in read(tmp_path / "mixed.html").words

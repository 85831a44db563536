"""Which cells there are, what is kept of them, and what table and curve say."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from app.benchmarking import run as running
from app.benchmarking.command import benchmark
from app.benchmarking.run import Outcome, Settings, run
from app.benchmarking.table import as_csv, as_markdown, as_svg, kl_words
from app.benchmarking.ways import SIZES, WAYS, Cell, cells, limit_bytes
from app.console import Terminal
from core.errors import BadOption, Cancelled, DeltadeckError, OutputExists

SETTINGS = Settings("base", "ft", 4, 0, None, 0, "cpu", "default", "default", 100)


def test_methods_of_one_size_have_one_cell() -> None:
    found = cells([], SIZES)
    sized = [w for w in WAYS if w.is_sized]
    assert len(found) == len(sized) * len(SIZES) + len(WAYS) - len(sized)
    assert {c.size for c in found if not c.way.is_sized} == {16}
    assert [c.size for c in found] == sorted((c.size for c in found), reverse=True)


@pytest.mark.parametrize(("names", "sizes"), [(["nothing"], [8]), (["mix"], [0]), (["mix"], [])])
def test_senseless_lists_are_refused(names: list[str], sizes: list[int]) -> None:
    with pytest.raises(BadOption):
        cells(names, sizes)


def test_sizes_are_multiples_of_what_signs_take() -> None:
    assert [limit_bytes(1600, 100, s) for s in (4, 8, 16, 32)] == [6500, 3300, 1700, 900]


class Fake:
    """Stands in for the commands: notes what was asked, makes a delta's folder, fails where it is told to."""

    def __init__(self, broken: str = "") -> None:
        self.calls: list[list[str]] = []
        self.broken = broken

    def __call__(self, arguments: Any, check: Any) -> Outcome:
        check()
        self.calls.append(list(arguments))
        if arguments[0] == "plan":
            tensors = [{"codec": "sign", "block": 0, "bytes": 1600}, {"codec": "same", "block": 0, "bytes": 0}]
            return Outcome({"tensors": tensors, "weights_bytes": 1700}, 0.1, 1)
        if arguments[0] == "compress":
            if self.broken and self.broken in arguments:
                raise DeltadeckError("It broke.", "Because.", "")
            folder = Path(arguments[arguments.index("-o") + 1])
            folder.mkdir(parents=True)
            (folder / "delta_config.json").write_text(json.dumps({"fidelity": {"expected_kl": 0.5}}))
            return Outcome({"weights_bytes": 1700, "full_bytes": 27200}, 2.0, 1 << 20)
        figures = {"kl_mean": 0.01, "kl_se": 0.001, "kl_p99": 0.1, "top1": 0.97, "ppl": 30.0}
        return Outcome({"variant": figures, "base": {"kl_mean": 0.2}, "recovery": 0.95, "tokens": 120}, 1.0, 1)


def _go(folder: Path, monkeypatch: pytest.MonkeyPatch, fake: Fake, names: tuple[str, ...] = ("exact", "mix")) -> dict[str, Any]:
    monkeypatch.setattr(running, "call", fake)
    return run(cells(names, (8, 16)), SETTINGS, folder, lambda: None, lambda *a: None)


def test_a_finished_cell_is_not_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Fake()
    value = _go(tmp_path, monkeypatch, first)
    assert [(r["method"], r["size"]) for r in value["rows"]] == [("exact", 16), ("mix", 16), ("mix", 8)]
    assert [c[c.index("--budget") + 1] for c in first.calls if "--budget" in c] == ["1700", "3300"]
    again = Fake()
    assert _go(tmp_path, monkeypatch, again)["rows"] == value["rows"]
    assert [c[0] for c in again.calls] == ["plan"]
    assert {p.name for p in tmp_path.iterdir()} == {"cells", "benchmark.json", "benchmark.csv", "benchmark.md", "curve.svg"}


def test_the_table_has_what_earlier_runs_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _go(tmp_path, monkeypatch, Fake())["rows"]
    (tmp_path / "cells" / "notes-x.json").write_text("{}")
    (tmp_path / "cells" / "coded-16.json").write_text('{"key": "of other settings", "row": {}}')
    assert _go(tmp_path, monkeypatch, Fake(), ("exact",))["rows"] == whole
    value = _go(tmp_path, monkeypatch, Fake(), ("bitdelta",))
    assert [r["method"] for r in value["rows"]] == ["bitdelta", "exact", "mix", "mix"]


def test_a_stop_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    monkeypatch.setattr(running, "call", fake)

    def check() -> None:
        if len(fake.calls) >= 4:
            raise Cancelled("Stopped.")
    with pytest.raises(Cancelled):
        run(cells(("exact", "mix"), (8, 16)), SETTINGS, tmp_path, check, lambda *a: None)
    again = Fake()
    assert len(_go(tmp_path, monkeypatch, again)["rows"]) == 3
    assert sum(c[0] == "compress" for c in again.calls) == 2


def test_other_settings_measure_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _go(tmp_path, monkeypatch, Fake())
    fake = Fake()
    monkeypatch.setattr(running, "call", fake)
    run(cells(("exact",), (16,)), Settings(**{**vars(SETTINGS), "samples": 5}), tmp_path, lambda: None, lambda *a: None)
    assert sum(c[0] == "compress" for c in fake.calls) == 1


def test_cells_of_other_settings_stay_beside_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _go(tmp_path, monkeypatch, Fake())
    assert first["kept_not_shown"] == 0
    other = Settings(**{**vars(SETTINGS), "samples": 5})
    value = run(cells(("exact",), (16,)), other, tmp_path, lambda: None, lambda *a: None)
    assert (len(value["rows"]), value["kept_not_shown"]) == (1, 3)
    again = Fake()
    back = _go(tmp_path, monkeypatch, again)
    assert (back["rows"], back["kept_not_shown"]) == (first["rows"], 1)
    assert [c[0] for c in again.calls] == ["plan"]


def test_files_without_a_key_in_their_name_are_known_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _go(tmp_path, monkeypatch, Fake())["rows"]
    for path in list((tmp_path / "cells").iterdir()):
        path.rename(path.with_name(f"{path.name.partition('.')[0]}.json"))
    again = Fake()
    assert _go(tmp_path, monkeypatch, again)["rows"] == whole
    assert [c[0] for c in again.calls] == ["plan"]
    run(cells(("exact",), (16,)), Settings(**{**vars(SETTINGS), "samples": 5}), tmp_path, lambda: None, lambda *a: None)
    assert _go(tmp_path, monkeypatch, again)["rows"] == whole
    assert sum(c[0] == "compress" for c in again.calls) == 1


def test_the_command_says_what_it_leaves_out_and_what_it_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                                capsys: pytest.CaptureFixture[str]) -> None:
    _go(tmp_path, monkeypatch, Fake())
    benchmark(Terminal(), Settings(**{**vars(SETTINGS), "samples": 5}), "exact,mix", "8,32", tmp_path)
    out, err = capsys.readouterr()
    assert "left out: exact exists at 1/16 only." in err.replace("\n", " ")
    assert "3 cells measured with other settings or files are kept, not shown." in out.replace("\n", " ")
    with pytest.raises(BadOption, match="Nothing to run: exact, both exist at 1/16 only"):
        benchmark(Terminal(), SETTINGS, "exact,both", "8", tmp_path)


def test_a_cell_that_fails_is_told_and_does_not_end_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = _go(tmp_path, monkeypatch, Fake(broken="chosen"))
    assert [r["method"] for r in value["rows"]] == ["exact"]
    assert [f["what"] for f in value["failures"]] == ["It broke."] * 2


def test_a_strangers_folder_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(OutputExists):
        _go(tmp_path, monkeypatch, Fake())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def _rows() -> list[dict[str, Any]]:
    common = {"ratio": 16.0, "kl_p99": 0.1, "top1": 0.97, "recovery": 0.95, "ppl": 30.0, "fit_seconds": 60.0,
              "peak_memory": 1 << 30}
    return [{**common, "method": m, "label": label, "size": s, "bytes": b, "kl_mean": k, "kl_se": k / 10, "expected_kl": e}
            for m, label, s, b, k, e in (("exact", "A & <b>", 16, 1_000_000, 0.01, None),
                                         ("mix", "Mix", 16, 990_000, 0.005, 0.006),
                                         ("mix", "Mix", 8, 1_990_000, 0.001, 0.002))]


FACTS = {"base": "b", "fine_tuned": "<ft>", "tokens": 5120, "text": "wiki", "base_kl": 0.2, "samples": 4, "tune_samples": 0}


def test_the_table_marks_the_best_of_each_size() -> None:
    text = as_markdown(_rows(), FACTS)
    assert "**0.00500 ± 0.00050**" in text and "**0.00100 ± 0.00010**" in text and "**0.01000" not in text
    read = list(csv.DictReader(io.StringIO(as_csv(_rows()))))
    assert [r["kl_mean"] for r in read] == ["0.01", "0.005", "0.001"]


def test_the_curve_is_well_formed_and_escapes_names() -> None:
    root = ElementTree.fromstring(as_svg(_rows(), FACTS))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "A & <b>" in texts and "Mix" in texts
    assert len(list(root.iter("{http://www.w3.org/2000/svg}polyline"))) == 1
    assert as_svg([], FACTS) == ""


def test_a_failing_command_tells_its_own_words() -> None:
    with pytest.raises(DeltadeckError) as failed:
        running.call(["compress", "/nowhere/base", "/nowhere/ft", "-o", "/nowhere/out"], lambda: None)
    assert "/nowhere/base" in str(failed.value.why) + str(failed.value.what)


def test_a_stop_ends_the_child() -> None:
    def stop() -> None:
        raise Cancelled("Stopped.")
    with pytest.raises(Cancelled):
        running.call(["demo", "--tiny", "/dev/null/x"], stop)


def test_cells_have_names_for_files() -> None:
    assert Cell(WAYS[-1], 8).name == "mix-8"


@pytest.mark.parametrize(("value", "error", "words"), [
    (0.00072, 0.00005, "0.00072 ± 0.00005"), (4.21e-6, 3.4e-7, "0.0000042 ± 0.0000003"), (0.0, 0.0, "0.00000 ± 0.00000"),
    (0.19, 0.0097, "0.19000 ± 0.00970"), (1e-12, 1e-14, "0.000000000 ± 0.000000000")])
def test_a_kl_is_told_to_its_errors_first_digit(value: float, error: float, words: str) -> None:
    assert kl_words(value, error) == words


@pytest.mark.parametrize("row", [None, "x", {}, {"kl_mean": 1.0}, {"method": "gold"}])
def test_a_damaged_cell_is_measured_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Any) -> None:
    _go(tmp_path, monkeypatch, Fake())
    (path,) = (tmp_path / "cells").glob("exact-16.*.json")
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "row": {**kept["row"], **row} if row == {"method": "gold"} else row}))
    again = Fake()
    assert len(_go(tmp_path, monkeypatch, again)["rows"]) == 3
    assert sum(c[0] == "compress" for c in again.calls) == 1


def test_what_can_not_be_read_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = _go(tmp_path, monkeypatch, Fake())["rows"]
    (path,) = (tmp_path / "cells").glob("exact-16.*.json")
    for name in ("exact-016.json", "exact-\u0661\u0666.json", "mix-" + "9" * 300 + ".json"):
        with suppress(OSError):                        # a name may be too long for the disk
            (tmp_path / "cells" / name).write_bytes(path.read_bytes())
    (tmp_path / "cells" / "coded-16.json").write_text("[" * 200_000)
    assert _go(tmp_path, monkeypatch, Fake())["rows"] == first
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExists, match="is a file"):
        _go(tmp_path / "file", monkeypatch, Fake())


def test_edited_text_is_other_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "text.txt"
    monkeypatch.setattr(running, "call", fake := Fake())
    asked = Settings(**{**vars(SETTINGS), "text": str(text)})
    for words in ("one", "another"):
        text.write_text(words)
        run(cells(("exact",), (16,)), asked, tmp_path / "out", lambda: None, lambda *a: None)
    assert sum(c[0] == "compress" for c in fake.calls) == 2

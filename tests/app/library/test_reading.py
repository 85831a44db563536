from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from app.codings import CODINGS
from app.library.reading import (
    count_kinds,
    delta_folders,
    is_base,
    method_label,
    other_winners,
    read_card,
    read_delta,
    read_rows,
    resolve,
    settings_of,
    signature,
)
from tests.app.library.deltas import FIDELITY, GOLDEN, make_delta


def test_a_delta_is_read_with_its_figures(tmp_path: Path) -> None:
    entry = read_delta(make_delta(tmp_path, "pirate", base_name="org/base", warnings=("Something.",)))
    assert (entry.name, entry.base_name, entry.fine_tuned, entry.method) == ("pirate", "org/base", "pirate-whole", "Per-axis")
    assert entry.state == "fine" and entry.usable
    assert entry.bytes == (tmp_path / "pirate" / "delta_model.safetensors").stat().st_size
    assert entry.ratio == pytest.approx(entry.full_bytes / entry.bytes)
    assert entry.recovery == pytest.approx(0.975)
    assert (entry.kl, entry.base_kl, entry.tokens) == (0.01, 0.4, 3840)
    assert len(entry.sha256) == 64 and entry.warnings == ("Something.",)
    assert entry.layers == sum(k.row + k.column + k.other for k in entry.kinds) == 1
    assert dict(entry.settings)["Recipe"] == "Exact fit"


def test_another_objective_is_no_kl(tmp_path: Path) -> None:
    entry = read_delta(make_delta(tmp_path, "a", fidelity={"objective": "mse", "base": 2.0, "variant": 0.5, "tokens": 9}))
    assert entry.kl is None and entry.recovery == pytest.approx(0.75)


@pytest.mark.parametrize("fidelity", [{}, {"base": "much", "variant": None, "tokens": []}, {"base": True, "variant": 1}], ids=str)
def test_figures_of_a_strange_type_are_left_out(tmp_path: Path, fidelity: dict[str, object]) -> None:
    entry = read_delta(make_delta(tmp_path, "a", fidelity=fidelity))
    assert entry.recovery is None and entry.tokens == 0


def test_a_damaged_folder_becomes_an_entry_that_says_why(tmp_path: Path) -> None:
    folder = make_delta(tmp_path, "a")
    whole = read_delta(folder)
    weights = folder / "delta_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    entry = read_delta(folder)
    assert entry.state == "damaged" and not entry.usable
    assert "delta_model.safetensors" in entry.problem and entry.problem.endswith(".")
    assert entry.sha256 == whole.sha256, "its note stays with it"


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"format": "other"}', '{"format": "deltadeck", "format_version": 99}'],
                         ids=["empty", "cut", "deep", "other", "newer"])
def test_hostile_configs_are_entries_too(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "delta_config.json").write_text(text)
    entry = read_delta(tmp_path / "x")
    assert entry.state == "damaged" and entry.problem and entry.sha256 == ""


def test_only_finished_deltas_are_listed(tmp_path: Path) -> None:
    for name in ("b", "A", ".a.123.partial", "c.job", ".deltadeck-trash"):
        shutil.copytree(GOLDEN / "delta", tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    assert [p.name for p in delta_folders(tmp_path)] == ["A", "b"]
    assert delta_folders(tmp_path / "missing") == []


def test_a_library_that_can_not_be_read_does_not_look_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.listdir", _refuse)
    with pytest.raises(PermissionError):
        delta_folders(tmp_path)


def _refuse(path: object) -> list[str]:
    raise PermissionError(13, "Permission denied", str(path))


def test_the_signature_follows_every_file(tmp_path: Path) -> None:
    folder = make_delta(tmp_path, "a")
    before = signature(folder)
    assert before == signature(folder)
    (folder / "delta_model.safetensors").write_bytes(b"x")
    assert signature(folder) != before
    assert signature(tmp_path / "missing") == ""


@pytest.mark.parametrize(("recipe", "axis", "label"), [
    ("exact", "auto", "Per-axis"), ("exact", "row", "Row"), ("exact", "both", "Row x column"), ("exact", "scalar", "BitDelta"),
    ("bitdelta", "", "BitDelta"), ("chosen", "auto", "Chosen signs"), ("chosen", "both", "Chosen, row x column"),
    ("paper", "auto", "Paper"), ("", "", "Unknown"), ("new", "", "new")])
def test_methods_have_names(recipe: str, axis: str, label: str) -> None:
    assert method_label(recipe, axis) == label


def test_rows_come_in_the_order_of_the_data(tmp_path: Path) -> None:
    rows = read_rows(make_delta(tmp_path, "a"))
    assert len(rows) > 3
    assert [r.block for r in rows if r.block is not None] == [0]
    assert all(r.bytes >= 0 for r in rows)


def test_a_card_comes_without_its_head_and_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\na: b\n---\n\n# Title\n")
    assert read_card(tmp_path) == "# Title"
    (tmp_path / "README.md").write_text("x" * 300_000)
    assert len(read_card(tmp_path)) == 100_000
    assert read_card(tmp_path / "missing") == ""


def test_a_base_is_told_by_its_tensors(tmp_path: Path) -> None:
    folder = make_delta(tmp_path, "a")
    assert is_base(folder, str(GOLDEN / "base"))
    assert not is_base(folder, str(GOLDEN / "delta"))
    assert not is_base(folder, str(tmp_path / "missing"))


def test_places_are_resolved_on_this_machine_only(tmp_path: Path) -> None:
    assert resolve(str(GOLDEN / "base")) == str(GOLDEN / "base")
    assert resolve(str(tmp_path)) == resolve("") == resolve("no/such-model-here") == resolve("plain") == ""


def test_settings_of_any_type_become_text() -> None:
    facts = dict(settings_of({"axis": "auto", "deep": {"a": {"b": 1}}}, {"sha256": "x", "samples": 3, "seed": [0]}, "9"))
    assert facts["Axis"] == "Row or column, per layer"
    assert facts["Deep"] == "a (b 1)" and facts["Seed"] == "[0]"
    assert "Samples" not in facts and facts["Made by"] == "Deltadeck 9"


@pytest.mark.parametrize(("axes", "wanted"), [(("both", "both"), {"both"}), (("row", "column"), set()),
                                              (("both", "scalar"), {"both", "scalar"})])
def test_what_is_neither_by_row_nor_by_column_is_named(axes: tuple[str, ...], wanted: set[str]) -> None:
    records = [SimpleNamespace(block=i, shape=(4, 4), codec="sign", kind="q", note="", method="", planes=1,
                               slices=[SimpleNamespace(axis=axis)])
               for i, axis in enumerate(axes)]
    head = SimpleNamespace(block=None, shape=(9, 4), codec="sign", kind="head", note="", slices=[SimpleNamespace(axis="row")])
    delta: Any = SimpleNamespace(config=SimpleNamespace(tensors=[*records, head]))
    assert other_winners(delta) == wanted
    assert sum(k.row + k.column + k.other for k in count_kinds(delta)) == 2


def test_a_delta_of_a_size_says_so(tmp_path: Path) -> None:
    made = make_delta(tmp_path, "mix", method={"recipe": "chosen", "axis": "auto", "budget": "12x"},
                      fidelity={**FIDELITY, "budget": 99, "expected_kl": 0.02, "base_kl": 0.4,
                                "methods": {"deltamix": 3, "left out": 1, "planes": 9}})
    found = read_delta(made)
    assert (found.method, found.asked, found.expected_kl) == ("Budgeted mix", "12x", 0.02)
    assert found.mix == (("Sign planes", 9), ("DeltaMix", 3), ("Left out", 1)) and ("Size asked for", "12x") in found.settings
    plain = read_delta(make_delta(tmp_path, "uniform", method={"recipe": "deltamix", "axis": "row", "quality": "0.9"}))
    assert (plain.method, plain.asked, plain.mix) == ("DeltaMix", "recovery 0.9", ())
    rows = {row.coding for row in read_rows(made)}
    assert rows <= set(CODINGS) and "sign" in rows


def test_a_strangers_names_come_without_control_characters(tmp_path: Path) -> None:
    folder = make_delta(tmp_path, "a", base_name="ba\x1b[31mse\u202e", warnings=("w\x9b1m\nx",),
                        method={"re\x07cipe": "\x1b]0;pwn\x07"})
    (folder / "README.md").write_text("# Ti\x1b[2Jtle\n\ntext\ttab\u2066\n")
    entry = read_delta(folder)
    assert (entry.base_name, entry.warnings) == ("ba[31mse", ("w1m x",))
    assert all(text.isprintable() for pair in entry.settings for text in pair)
    assert read_card(folder) == "# Ti[2Jtle\n\ntext\ttab"


def test_a_strangers_tensors_have_names_that_can_be_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import core.artifact

    opened = core.artifact.open_delta(make_delta(tmp_path, "a"))
    odd = tuple(msgspec.structs.replace(t, name=f"\x1b[31m{t.name}\n", note="\x07") for t in opened.config.tensors)
    monkeypatch.setattr(core.artifact, "open_delta", lambda folder: SimpleNamespace(config=SimpleNamespace(tensors=odd)))
    rows = read_rows(tmp_path / "a")
    assert len(rows) == len(odd)
    assert all(r.tensor.isprintable() and r.tensor.startswith("[31m") and not r.note for r in rows)


def test_kinds_know_how_their_matrices_are_stored(tmp_path: Path) -> None:
    entry = read_delta(make_delta(tmp_path, "a"))
    assert all(sum(n for _, n in k.codings) == k.row + k.column + k.other for k in entry.kinds)
    assert {key for k in entry.kinds for key, _ in k.codings} <= set(CODINGS)

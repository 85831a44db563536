"""Commands on a delta from a stranger: what its names hold reaches no terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli import main
from tests.app.library.deltas import make_delta

ODD = "x\x1b[31mred\x1b]0;pwn\x07[/]\u202ey"


def test_inspect_prints_names_of_a_file_as_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    delta = make_delta(tmp_path, "a", base_name=ODD, warnings=(ODD,), method={ODD: ODD}, calibration={"source": ODD})
    assert main(["inspect", str(delta)]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert "x[31mred]0;pwn[/]y" in out.replace("\n", "")


def test_inspect_prints_names_of_tensors_as_plain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec

    import core.artifact

    opened = core.artifact.open_delta(make_delta(tmp_path, "a"))
    odd = tuple(msgspec.structs.replace(t, name=f"{ODD}{i}", kind=ODD, block=None) for i, t in enumerate(opened.config.tensors))
    monkeypatch.setattr(opened, "config", msgspec.structs.replace(opened.config, tensors=odd))
    monkeypatch.setattr(core.artifact, "open_delta", lambda folder: opened)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["inspect", str(tmp_path / "a")]) == 0
    out = capsys.readouterr().out
    assert out.replace("\n", "").isprintable()
    assert "x[31mred]0;pwn[/]y0" in out

"""The demo on the tiny trio, with few samples: what it writes, and that it goes on from what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from app import demo
from app.cli import main


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples, tokens and prompts."""
    def short(whole: Callable[[], demo.Demo] = demo.tiny_demo) -> demo.Demo:
        made = whole()
        return replace(made, prompts=made.prompts[:4], tokens=600, samples=8, tune_samples=8, exact=lambda answers: 0.5)
    monkeypatch.setattr(demo, "tiny_demo", short)


def test_the_tiny_demo_shows_the_manner_and_reuses_what_is_done(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "out"), "--tiny", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    left = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert left == ["events.jsonl", "report.json", "report.md", "tiny-pirate-delta"]
    assert said["kind"] == "tiny"
    assert said["fidelity"]["recovery"] > 0.9
    words = said["pirate_words_per_100"]
    assert words["variant"] >= 0.9 * words["fine_tuned"] > 10 > words["base"]
    assert len(said["answers"]) == 4
    for answer in said["answers"]:
        assert answer["variant"].startswith("Arr!")
        assert not answer["base"].startswith("Arr!")
    text = (tmp_path / "out" / "report.md").read_text()
    assert all(answer["prompt"] in text and answer["variant"] in text for answer in said["answers"])
    for title in ("Size", "Fidelity", "Manner", "Answers, side by side", "Layers by kind", "Axis map"):
        assert f"## {title}" in text

    assert main(["demo", str(tmp_path / "out"), "--tiny"]) == 0
    out, err = capsys.readouterr()
    assert err.count("Reusing") == 2
    assert "Arr!" in out
    assert "deltadeck inspect" in out
    assert (tmp_path / "out" / "report.md").read_text() == text

    (tmp_path / "out" / "report.json").unlink()
    (tmp_path / "out" / "tiny-pirate-delta" / "delta_model.safetensors").unlink()
    assert main(["demo", str(tmp_path / "out"), "--tiny", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "OutputExists"


def test_without_an_index_the_tiny_models_are_shown(
    tmp_path: Path, quick: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.demo.default_demo_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr("core.demo.index_answers", lambda: False)
    (tmp_path / "file").write_text("")
    assert main(["demo", str(tmp_path / "file"), "--json"]) == 2
    capsys.readouterr()
    # The delta's place is taken, so that nothing has to be fitted to see which pair was chosen.
    (tmp_path / "out" / "tiny-pirate-delta").mkdir(parents=True)
    assert main(["demo", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "tiny models that ship with Deltadeck are shown instead" in err
    assert "in the way" in err

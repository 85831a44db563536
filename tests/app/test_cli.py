"""The commands, called as a user calls them: exit codes, JSON shapes, and the files that come out."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from tests.conftest import byte_tokenizer
from tests.models import make_pair, write_text

FEW = ("--samples", "4", "--tune-samples", "4", "--sequence-length", "24", "--device", "cpu")


@dataclass(frozen=True)
class Made:
    """A pair, its delta, and what compress said."""

    base: str
    tuned: str
    text: str
    delta: Path
    said: dict[str, Any]
    events: list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("pair")
    base, tuned = make_pair(folder, "llama-tied", byte_tokenizer(), share=0.05, dtype=torch.bfloat16)
    text, delta, events = write_text(folder), folder / "delta", folder / "logs" / "events.jsonl"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["compress", str(base), str(tuned), "-o", str(delta), "--calibration", str(text), *FEW,
                     "--events", str(events), "--json"])
    assert code == 0, err.getvalue()
    assert "Fitting" in err.getvalue()
    assert "\x1b" not in err.getvalue()
    return Made(str(base), str(tuned), str(text), delta, json.loads(out.getvalue()),
                [json.loads(line) for line in events.read_text().splitlines()])


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Run a command with --json: exit code, the object on stdout, the text on stderr."""
    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err
    return run


Ask = Callable[..., tuple[int, dict[str, Any], str]]


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    commands = ("plan", "compress", "resume", "inspect", "verify", "export", "evaluate", "bench", "chat", "demo", "window")
    assert all(f" {command} " in shown for command in commands)
    for command in commands:
        assert main([command, "--help"]) == 0
        assert f"deltadeck {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("deltadeck ")


@pytest.mark.parametrize("arguments", [["compress", "a"], ["nonsense"], ["plan", "a", "b", "--recipe", "best"],
                                       ["inspect", "--what"], ["compress", "a", "b", "-o", "c", "--samples", "1"]])
def test_bad_usage_ends_with_2(arguments: list[str], ask: Ask) -> None:
    code, said, err = ask(*arguments)
    assert code == 2
    assert said["error"]["kind"] == "BadUsage"
    assert said["error"]["what"]
    assert "--help" in err


def test_refused_input_ends_with_2_and_writes_nothing(made: Made, ask: Ask, tmp_path: Path) -> None:
    for arguments, kind in ((("plan", tmp_path / "no", made.tuned), "CheckpointNotFound"), (("inspect", made.base), "NotADelta"),
                            (("compress", made.base, made.tuned, "-o", made.delta), "OutputExists"),
                            (("compress", made.base, made.tuned, "-o", tmp_path / "d", "--device", "abacus"), "BadOption"),
                            (("compress", made.base, made.tuned, "-o", tmp_path / "e", "--calibration", tmp_path / "no.txt"),
                             "CalibrationUnusable"),
                            (("resume", tmp_path / "no.job"), "BadOption"), (("resume", made.delta), "NotADelta"),
                            (("inspect", made.delta, "--kind", "ear"), "BadOption")):
        code, said, err = ask(*arguments)
        assert (code, said["error"]["kind"]) == (2, kind)
        assert said["error"]["what"] in err.replace("\n", " ")
        assert "Traceback" not in err
    assert not (tmp_path / "d").exists()
    assert not (tmp_path / "e").exists()


def test_plan_counts_to_the_byte(made: Made, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = ask("plan", made.base, made.tuned, *FEW)
    assert code == 0
    assert said["weights_bytes"] == (made.delta / "delta_model.safetensors").stat().st_size == made.said["weights_bytes"]
    assert said["artifact_bytes"] == said["weights_bytes"] + said["sidecar_bytes"]
    assert said["full_bytes"] == sum(t["full_bytes"] for t in said["tensors"])
    assert sum(t["bytes"] for t in said["tensors"]) == sum(k["bytes"] for k in said["kinds"]) < said["weights_bytes"]
    guess = said["estimate"]
    assert guess.keys() == {"seconds", "block_seconds", "memory_bytes", "memory_by_stage", "disk_bytes"}
    assert 0 < guess["block_seconds"] < guess["seconds"] and guess["memory_bytes"] == max(guess["memory_by_stage"].values())
    assert {t["codec"] for t in said["tensors"]} >= {"same", "sign"}
    assert main(["plan", made.base, made.tuned, *FEW]) == 0
    shown = capsys.readouterr().out
    assert f"{said['weights_bytes']:,} bytes" in shown
    assert "deltadeck compress" in shown


def test_compress_says_what_it_made(made: Made) -> None:
    assert made.said.keys() == {"folder", "weights_bytes", "planned_bytes", "folder_bytes", "full_bytes", "ratio", "seconds",
                                "recovery", "fidelity", "method", "calibration", "warnings", "kinds"}
    assert made.said["weights_bytes"] == made.said["planned_bytes"]
    assert 0 < made.said["recovery"] <= 1
    # The pair's config.json files differ in their layout, and nothing else beside the weights does.
    files = sorted(p.name for p in made.delta.iterdir())
    assert files == ["README.md", "config.json", "delta_config.json", "delta_model.safetensors"]
    assert not made.delta.with_name("delta.job").exists()
    assert sum(p.stat().st_size for p in made.delta.iterdir()) == made.said["folder_bytes"] + (
        made.delta / "delta_config.json").stat().st_size
    kinds = [e["event"] for e in made.events]
    assert {"stagestarted", "progress", "layerstarted", "layerfitted", "tunepoint", "written", "finished"} <= set(kinds)
    assert kinds[-1] == "finished"
    # Neither delta nor card tells where on a disk anything lay.
    assert made.said["calibration"]["source"] == "text.txt"
    assert str(Path(made.text).parent) not in (made.delta / "delta_config.json").read_text()


def test_inspect_shows_tensors_kinds_and_axis_map(made: Made, ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = ask("inspect", made.delta)
    assert code == 0
    assert said["weights_bytes"] == made.said["weights_bytes"]
    signs = [t for t in said["tensors"] if t["codec"] == "sign"]
    assert signs
    assert all(set(t["losses"][0]["axis"]) >= {"row", "column"} and t["recovery"] is not None for t in signs)
    assert said["axis_map"][0][1:] == ["q", "k", "v", "o", "gate", "up", "down"]
    assert [row[0] for row in said["axis_map"][1:]] == ["0", "1"]
    for t in signs:
        letter = said["axis_map"][1 + t["block"]][said["axis_map"][0].index(t["kind"])]
        assert letter == {"row": "R", "column": "C"}[t["axes"][0]]
    assert main(["inspect", str(made.delta), "--kind", "down"]) == 0
    shown = capsys.readouterr().out
    assert "Recovery" in shown
    assert "row (per output)" in shown or "column (per input)" in shown


def test_verify_finds_any_flipped_byte_and_another_base(made: Made, ask: Ask, tmp_path: Path) -> None:
    code, said, _ = ask("verify", made.delta, "--base", made.base)
    assert (code, said["ok"], said["problems"], said["base"]["ok"]) == (0, True, [], True)
    assert {f["file"] for f in said["files"]} == {p.name for p in made.delta.iterdir()}
    code, said, err = ask("verify", made.delta, "--base", made.tuned)
    assert (code, said["ok"], said["base"]["ok"]) == (1, False, False)
    assert "not this delta's base" in err
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("delta_model.safetensors", "README.md", "delta_config.json"):
        for other in made.delta.iterdir():
            (copy / other.name).write_bytes(other.read_bytes())
        data = bytearray((made.delta / name).read_bytes())
        data[len(data) * 3 // 4] ^= 1
        (copy / name).write_bytes(data)
        code, said, err = ask("verify", copy)
        assert (code, said["ok"], len(said["problems"])) == (1, False, 1), name
        assert said["problems"][0] in err.replace("\n", " ")


def test_export_then_evaluate_and_bench(made: Made, ask: Ask, tmp_path: Path) -> None:
    code, said, _ = ask("export", made.delta, "--base", made.base, "-o", tmp_path / "out")
    assert code == 0
    assert set(said["files"]) == {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in Path(made.tuned).iterdir()}
    assert ask("export", made.delta, "--base", made.base, "-o", tmp_path / "out")[0] == 2

    (tmp_path / "own.jsonl").write_text('{"question": "1 times 2?", "choices": ["makes 2", "the owl"], "answer": 0}\n' * 2)
    code, said, _ = ask("evaluate", made.delta, "--base", made.base, "--fine-tuned", made.tuned, "--tokens", 300,
                        "--prompts", 3, "--answer-tokens", 4, "--tasks", "own", "--task-data", tmp_path)
    assert code == 0
    assert said["generation"]["prompts"] == 3
    assert said["tasks"]["own"]["variant"].keys() == {"acc", "acc_se", "acc_norm", "acc_norm_se", "same", "same_se"}
    assert len(said["layers"]["worst"]) == min(5, said["layers"]["fitted"]) > 0
    assert said["tokens"] >= 300
    for name in ("base", "variant"):
        assert said[name].keys() >= {"kl_mean", "kl_se", "kl_p99", "top1", "ppl", "ppl_se", "kl_median", "ppl_gap", "top1_se"}
    assert said["fine_tuned"].keys() == {"ppl", "ppl_se"}
    assert said["recovery"] == pytest.approx(1 - said["variant"]["kl_mean"] / said["base"]["kl_mean"])

    code, said, _ = ask("bench", made.delta, "--base", made.base, "--fine-tuned", made.tuned, "--repeats", "1")
    assert code == 0
    assert said["warm"].keys() == {"full", "switch", "start"}
    assert said["ratio"]["warm"] > 0


def test_plain_results_go_to_stdout(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made.delta), "--base", made.base]) == 0
    assert "Every byte is as it was written" in capsys.readouterr().out
    assert main(["evaluate", str(made.delta), "-b", made.base, "-f", made.tuned, "--tokens", "100", "--text", made.text,
                 "--prompts", "2", "--answer-tokens", "3"]) == 0
    shown = capsys.readouterr().out
    assert "Recovery" in shown
    assert "before the first difference" in shown
    assert main(["bench", str(made.delta), "-b", made.base, "-f", made.tuned, "--repeats", "1"]) == 0
    assert "switch a loaded base" in capsys.readouterr().out

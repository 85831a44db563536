"""The fleet command as a user calls it, and jobs as tasks: a stand-in for Ray that loses nodes, and Ray itself."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

from app import fleet, fleet_ray
from app.cli import main
from app.fleet_ray import Needs, Tail, events_file, plan_needs, ray_engine
from core import __version__
from core.errors import BadOption, ClusterUnavailable
from core.events import AnyEvent, Finished, LayerFitted, Warned
from core.fleet import Member, Outcome, Problem, members_of, run_fleet
from tests.conftest import byte_tokenizer
from tests.models import (
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    write_text,
)

FEW = ("--samples", "4", "--tune-samples", "2", "--sequence-length", "24", "--device", "cpu")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Base, fine-tune, text."""
    folder = tmp_path_factory.mktemp("pair")
    return *make_pair(folder, "llama-tied", byte_tokenizer(), share=0.05), write_text(folder)


Ask = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str]) -> Ask:
    def run(*arguments: object) -> tuple[int, dict[str, Any], str]:
        code = main([*map(str, arguments), "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out), err
    return run


def test_a_batch_from_the_command_line(pair: tuple[Path, Path, Path], tmp_path: Path, ask: Ask,
                                       capsys: pytest.CaptureFixture[str]) -> None:
    base, tuned, text = pair
    command = ("fleet", base, tuned, tmp_path / "gone", "-o", tmp_path / "out", "--calibration", text, *FEW,
               "--events", tmp_path / "events.jsonl")
    code, said, err = ask(*command)
    assert code == 1
    assert said["counts"] == {"done": 1, "kept": 0, "failed": 1, "stopped": 0, "waiting": 0}
    made, gone = said["jobs"]
    assert (made["name"], made["state"], gone["name"], gone["problem"]["kind"]) == ("tuned", "done", "gone", "CheckpointNotFound")
    assert made["recovery"] > 0.5 and made["weights_bytes"] > 0
    assert "gone failed" in err
    assert "Traceback" not in err
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {e["job"] for e in events} == {"tuned", "gone"}
    assert events[-1]["event"] == "outcome"
    assert sum(e["event"] == "finished" for e in events) == 1
    single = tmp_path / "single"
    assert main(["compress", str(base), str(tuned), "-o", str(single), "--calibration", str(text), *FEW]) == 0
    assert {p.name: p.read_bytes() for p in single.iterdir()} == {p.name: p.read_bytes()
                                                                   for p in (tmp_path / "out" / "tuned").iterdir()}
    capsys.readouterr()
    assert main(["fleet", str(base), str(tuned), "-o", str(tmp_path / "out"), "--calibration", str(text), *FEW]) == 0
    shown = capsys.readouterr().out
    assert "done before" in shown
    assert "1 delta in" in shown


@pytest.mark.parametrize(("more", "kind"), [(["--on", "smoke"], "BadOption"), (["--budget", "huge"], "BadOption"),
                                            (["--device", "abacus"], "BadOption"), (["--workers", "0"], "BadUsage"),
                                            (["--on", "ray://127.0.0.1:9"], "ClusterUnavailable")])
def test_what_can_not_be_used_ends_with_2_and_writes_nothing(pair: tuple[Path, Path, Path], tmp_path: Path, ask: Ask,
                                                             more: list[str], kind: str) -> None:
    code, said, err = ask("fleet", pair[0], pair[1], "-o", tmp_path / "out", *more)
    assert (code, said["error"]["kind"]) == (2, kind)
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_without_ray_the_error_names_the_command_that_installs_it(pair: tuple[Path, Path, Path], tmp_path: Path, ask: Ask,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    code, said, _ = ask("fleet", pair[0], pair[1], "-o", tmp_path / "out", "--on", "ray")
    assert (code, said["error"]["kind"]) == (2, "ClusterUnavailable")
    assert "pip install" in said["error"]["remedy"] and "[cluster]" in said["error"]["remedy"]
    code, said, _ = ask("fleet", pair[0], "org/tune", "-o", tmp_path / "out", "--on", "ray")
    assert (code, said["error"]["kind"]) == (2, "BadOption")


def test_needs_of_a_job_follow_from_the_nodes() -> None:
    assert plan_needs([{"CPU": 8}, {"CPU": 4}, {}], "auto", None) == Needs("cpu", 4, 0, None)
    assert plan_needs([{"CPU": 8}, {"CPU": 4}], "cpu", 6) == Needs("cpu", 2, 0, 6)
    assert plan_needs([{"CPU": 8}, {"CPU": 4}], "cpu", None, 3) == Needs("cpu", 3, 0, None)
    assert plan_needs([{"CPU": 8, "GPU": 2}, {"CPU": 4}], "auto", None) == Needs("cuda", 4, 1, None)
    assert plan_needs([{"CPU": 8, "GPU": 2}], "cpu", None) == Needs("cpu", 8, 0, None)
    for nodes, device in (([{"CPU": 8}], "cuda"), ([{"memory": 1}], "cpu")):
        with pytest.raises(ClusterUnavailable):
            plan_needs(nodes, device, None)
    with pytest.raises(BadOption):
        plan_needs([{"CPU": 8}], "cuda:1", None)


def test_a_tail_reads_whole_lines_only_and_leaves_out_torn_ones(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    first, second = Warned(message="one"), Finished(folder="d", weights_bytes=1, seconds=1.0)
    path.write_bytes(msgspec.json.encode(first) + b"\n" + msgspec.json.encode(second)[:9])
    assert tail.read() == [first]
    assert tail.read() == []
    with fleet_ray._Writer(path) as writer:            # another attempt, after one that was lost in the middle of a line
        writer.tell(second)
    assert tail.read() == [second]


class LossyRay:
    """Stands in for Ray: runs tasks in turn, and loses the node of each first attempt half-way, as a kill does."""

    class RayError(Exception):
        """As Ray's own."""

    def __init__(self, attempts: int) -> None:
        self.attempts, self.cancelled, self.options = attempts, 0, dict[str, Any]()
        self.exceptions = SimpleNamespace(RayError=self.RayError)

    def remote(self, **options: Any) -> Callable[[Callable[[bytes], bytes]], Any]:
        self.options = options
        return lambda work: SimpleNamespace(remote=lambda order: (work, order))

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Any) -> bytes:
        work, order = reference
        for attempt in range(1 + self.options["max_retries"]):
            if attempt >= self.attempts:
                result: bytes = work(order)
                return result
            with pytest.MonkeyPatch.context() as patch:
                seen: list[AnyEvent] = []

                def tell(writer: Any, event: AnyEvent, tell: Any = fleet_ray._Writer.tell, seen: list[AnyEvent] = seen) -> None:
                    tell(writer, event)
                    seen.append(event)
                    if sum(isinstance(e, LayerFitted) for e in seen) > 8:
                        raise SystemExit                 # no job turns this into an outcome
                patch.setattr(fleet_ray._Writer, "tell", tell)
                with pytest.raises(SystemExit):
                    work(order)
        raise self.RayError("The node died.")

    def cancel(self, reference: Any, force: bool) -> None:
        self.cancelled += 1


def members(pair: tuple[Path, Path, Path], folder: Path) -> tuple[Member, ...]:
    options = {"calibration": str(pair[2]), "samples": 4, "tune_samples": 2, "sequence_length": 24, "device": "cpu"}
    return members_of(str(pair[0]), [str(pair[1])], folder, options, 1)


def test_a_lost_job_goes_on_elsewhere_or_is_told_as_lost(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    events: list[AnyEvent] = []
    whole = run_fleet(members(pair, tmp_path / "whole"), ray_engine(LossyRay(0), Needs("cpu", 1, 0, None)))
    ray = LossyRay(1)
    batch = members(pair, tmp_path / "lost")
    outcomes = run_fleet(batch, ray_engine(ray, Needs("cpu", 1, 0, None)), lambda name, event: events.append(event))
    assert [o.state for o in (*whole, *outcomes)] == ["done", "done"]
    assert (ray.options["num_cpus"], ray.options["num_gpus"], ray.options["max_retries"]) == (1, 0, fleet_ray.RETRIES)
    assert any(isinstance(e, LayerFitted) and e.restored for e in events)
    assert isinstance(events[-1], Finished)
    assert {p.name: p.read_bytes() for p in (tmp_path / "whole" / "tuned").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "lost" / "tuned").iterdir()}
    assert not events_file(batch[0]).exists()
    [hopeless] = run_fleet(members(pair, tmp_path / "never"), ray_engine(LossyRay(9), Needs("cpu", 1, 0, None)))
    assert hopeless.state == "failed"
    assert hopeless.problem is not None and "The node died." in hopeless.problem.why


def test_a_node_without_the_folder_or_of_another_version_says_so(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    [member] = members(pair, tmp_path / "out")
    for version, words in ((__version__, "does not see"), ("0.0", "same version")):
        order = fleet_ray._Order(member=member, version=version, environment={})
        outcome = msgspec.json.decode(fleet_ray.on_node(msgspec.json.encode(order)), type=Outcome)
        assert outcome.problem is not None
        assert words in f"{outcome.problem.what} {outcome.problem.remedy}"
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra `cluster` is not installed")
def test_ray_itself_runs_a_job(pair: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, tuned, text = pair
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short:      # Ray's sockets want short paths
        environment = {**os.environ, "RAY_TMPDIR": short, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "app", "fleet", str(base), str(tuned), "-o", str(tmp_path / "out"), "--calibration",
                   str(text), *FEW, "--on", "ray", "--events", str(tmp_path / "e.jsonl"), "--json"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=250,
                               cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["counts"]["done"] == 1
    [outcome] = run_fleet(members(pair, tmp_path / "here"), ray_engine(LossyRay(0), Needs("cpu", 1, 0, None)))
    assert {p.name: p.read_bytes() for p in Path(outcome.folder).iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "out" / "tuned").iterdir()}
    told = [json.loads(line)["event"] for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert told[-2:] == ["finished", "outcome"]


def test_the_table_says_in_words_what_failed() -> None:
    out = io.StringIO()
    failed = Outcome(name="a[b]", state="failed", problem=Problem(kind="OutputExists", what="'/x/a' exists already."))
    fleet._show(Console(file=out, width=80), [failed], 1.0)
    assert "OutputExists" not in out.getvalue()
    assert "a[b] failed: '/x/a' exists already." in out.getvalue()

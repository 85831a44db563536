"""The examination of a machine: the trial process tells everything, whatever breaks in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core import doctor
from core.doctor import Finding, Report

ROOT = Path(__file__).resolve().parents[2]


def trial(monkeypatch: pytest.MonkeyPatch, body: str) -> tuple[list[Finding], dict[str, object]]:
    """The findings of a trial process that does `body` instead."""
    start = subprocess.Popen

    def other(command: list[str], **options: Any) -> Any:
        return start([*command[:-1], f"import json, os, sys\nfrom core.doctor import _say\n{body}"], cwd=ROOT, **options)
    monkeypatch.setattr("core.doctor.subprocess.Popen", other)
    return doctor._trials(None)


def test_what_the_trial_tells_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    findings, devices = trial(monkeypatch, "print('a library chatters'); print('[1]'); print('{}')\n"
                              "_say('finding', group='libraries', name='x', state='broken', detail='d', remedy='r')\n"
                              "_say('devices', devices=[]); _say('end')")
    assert findings == [Finding("libraries", "x", "broken", "d", "r")]
    assert devices == {"devices": []}


@pytest.mark.parametrize(("end", "how"), [("os.kill(os.getpid(), 11)", "signal 11"), ("os._exit(3)", "code 3")])
def test_a_trial_that_dies_names_what_it_was_at(monkeypatch: pytest.MonkeyPatch, end: str, how: str) -> None:
    findings, _ = trial(monkeypatch, f"_say('begin', name='signs added on cuda')\n{end}")
    (found,) = findings
    assert (found.name, found.state) == ("signs added on cuda", "broken")
    assert how in found.detail
    assert found.remedy


def test_a_trial_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LONGEST", 3)
    findings, _ = trial(monkeypatch, "_say('begin', name='importing torch')\nimport time; time.sleep(3600)")
    assert [(f.name, f.state) for f in findings] == [("importing torch", "broken")]


def test_whoever_listens_can_end_it(tmp_path: Path) -> None:
    def tell(name: str) -> None:
        raise InterruptedError(name)
    with pytest.raises(InterruptedError, match="importing numpy"):
        doctor.examine(tmp_path, tell)


def test_missing_and_damaged_libraries_are_told_with_a_remedy(tmp_path: Path) -> None:
    """torch is absent, numba fails as a library for another processor does; the rest is tried all the same."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    (tmp_path / "numba.py").write_text("raise OSError('libllvm: wrong ELF class')")
    code = ("import sys; sys.path.insert(0, sys.argv[1]); from core import doctor; "
            "doctor.NEEDED = ('msgspec', 'torch', 'numba'); doctor._try_all()")
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines()]
    broken = {s["name"]: s for s in said if s.get("state") == "broken"}
    assert set(broken) == {"torch", "numba"}
    assert broken["torch"]["remedy"].endswith("-m pip install torch")
    assert "wrong ELF class" in broken["numba"]["detail"] and "--force-reinstall" in broken["numba"]["remedy"]
    assert any(s.get("name") == "kernels" and s["state"] == "note" for s in said)
    assert said[-1] == {"is": "end"}


def test_the_examination_loads_no_torch() -> None:
    code = "import sys, core.doctor as d; d.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_versions_come_without_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LISTED", ("numpy", "no-such-distribution-at-all"))
    found = doctor.versions()
    assert found["numpy"][0].isdigit()
    assert found["no-such-distribution-at-all"] == "absent"


def test_folders_that_cannot_be_written_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file" / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    found = {f.name: f for f in doctor._folders(tmp_path / "file")}
    assert (found["data folder"].state, found["hub cache"].state, found["kernel cache"].state) == ("broken", "note", "note")
    assert all(found[name].remedy for name in ("data folder", "hub cache", "kernel cache"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new" / "cache"))
    fine = {f.name: f.state for f in doctor._folders(tmp_path / "new" / "data")}
    assert (fine["data folder"], fine["kernel cache"]) == ("fine", "fine")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(os.name != "posix" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write anywhere")
def test_a_read_only_folder_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "denied" in doctor._unwritable(tmp_path)


def test_a_full_disk_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_free", lambda folder: 3 << 20)
    (found,) = [f for f in doctor._folders(tmp_path) if f.name == "free disk"]
    assert found.state == "note" and found.remedy


def test_a_report_is_fine_without_problems_and_plain_data() -> None:
    fine = Report((Finding("a", "b"), Finding("a", "c", "note", "d", "e")), {"python": "3"}, {"cores": 2})
    assert json.loads(json.dumps(fine.as_json()))["fine"] is True
    assert Report((*fine.findings, Finding("a", "x", "broken"))).as_json()["fine"] is False

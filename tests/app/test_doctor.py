"""`deltadeck doctor`: what it says, its exit code, and the lines that install what the system lacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app import doctor, system_libraries
from app.cli import main
from app.system_libraries import PACKAGES, family, install_line
from core.doctor import Finding, Report

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("release", "expected"), [
    ("ID=debian\n", "apt"), ('NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n', "apt"), ("ID=fedora\n", "dnf"),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf"), ("ID=arch\n", "pacman"), ("ID=manjaro\nID_LIKE=arch\n", "pacman"),
    ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', "zypper"), ("ID=nixos\n", ""), ("", ""), ("VARIANT_ID=debian\n", "")])
def test_the_distribution_tells_the_package_manager(release: str, expected: str) -> None:
    assert family(release) == expected


def test_the_line_names_each_package_once() -> None:
    missing = ["libEGL.so.1", "libxcb-cursor.so.0", "libxcb-shape.so.0", "libxcb-xinerama.so.0"]
    assert install_line(missing, "apt") == "sudo apt-get install libegl1 libxcb-cursor0 libxcb-shape0 libxcb-xinerama0"
    assert install_line(missing, "dnf", is_root=True) == "dnf install libglvnd-egl xcb-util-cursor libxcb"
    assert install_line(missing, "pacman") == "sudo pacman -S --needed libglvnd xcb-util-cursor libxcb"
    assert install_line(["libodd.so.3"], "dnf") == "sudo dnf install 'libodd.so.3()(64bit)'"
    assert install_line(["libodd.so.3"], "apt") == "Find the packages that hold: libodd.so.3."
    assert "libEGL.so.1" in install_line(missing, "")


def test_the_make_file_installs_what_is_looked_for() -> None:
    """Both name the same packages, but for fonts and what every Debian has or what those packages need themselves."""
    line = (ROOT / "Makefile").read_text().partition("PACKAGES := ")[2].partition("\n\n")[0]
    named = {word for word in line.replace("\\", " ").split() if not word.startswith("fonts-")}
    assert named <= {packages[0] for packages in PACKAGES.values()}


def test_libraries_that_do_not_load_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(system_libraries, "_unresolved", lambda: ["libxcb-cursor.so.0", "libodd.so.3"])
    monkeypatch.setitem(PACKAGES, "libdefinitely-not-here.so.9", ("a", "b", "c"))
    monkeypatch.setattr(system_libraries, "_loads", lambda name: name != "libdefinitely-not-here.so.9")
    assert system_libraries.missing_libraries() == ["libdefinitely-not-here.so.9", "libxcb-cursor.so.0", "libodd.so.3"]
    monkeypatch.undo()
    assert not system_libraries._loads("libdefinitely-not-here.so.9")


@pytest.mark.parametrize(("missing", "screen", "state"), [
    (["libxcb-cursor.so.0"], True, "broken"), (["libxcb-cursor.so.0"], False, "note"), (["libEGL.so.1"], False, "broken")])
def test_what_only_a_screen_needs_is_broken_only_with_one(missing: list[str], screen: bool, state: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing_libraries", lambda: missing)
    monkeypatch.setattr(doctor, "has_screen", lambda: screen)
    monkeypatch.setattr(doctor, "this_system", lambda: "apt")
    monkeypatch.setattr(doctor, "_qt_problem", lambda: "")
    found = next(f for f in doctor.window_findings() if f.name == "system libraries")
    assert found.state == state
    assert "apt-get install" in found.remedy


def test_qt_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "PySide6").mkdir()
    (tmp_path / "PySide6" / "__init__.py").write_text("raise ImportError('libEGL.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "libEGL.so.1" in doctor._qt_problem()


FINE = Report((Finding("folders", "data folder", "fine", "d"), Finding("self-test", "signs on cpu", "fine", "0.01 s")),
              {"deltadeck": "1", "python": "3"}, {"system": "Linux", "cores": 2, "memory": 8e9, "memory_free": 4e9,
                                                  "disk_free": 1e9,
                                                  "devices": [{"kind": "cpu", "name": "z", "features": ["avx2"]}]})
BROKEN = Report((*FINE.findings, Finding("libraries", "torch", "broken", "no [module]", "Install it: pip install torch")))


@pytest.mark.parametrize(("report", "code"), [(FINE, 0), (BROKEN, 1)])
def test_the_exit_code_tells_whether_all_is_fine(report: Report, code: int, monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "check_up", lambda data, tell: report)
    assert main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(report.as_json()))
    assert main(["doctor"]) == code
    shown = capsys.readouterr().out
    if code:
        assert "no [module]" in shown and "Install it: pip install torch" in shown and "One thing is broken." in shown
    else:
        assert "cpu: z  avx2" in shown and "1 check of kernels" in shown and "data folder" in shown

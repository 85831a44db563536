"""The rules that hold the house up: who may import what, what every file has, and what no file may hold."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.benchmarks.runner import main as run_benchmarks
from tests.benchmarks.runner import problem_with

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("app", "core", "resources")
QT = {"PySide6", "shiboken6", "PyQt5", "PyQt6", "pyqtgraph"}
MODULES = sorted(path for package in (*PACKAGES, "tests") for path in (ROOT / package).rglob("*.py"))
# Texts and models that ship as data; what they say is not ours to rule.
DATA = ("resources/calibration/", "resources/demo/tiny-", "tests/golden/")


def in_package(*packages: str) -> list[Path]:
    return [path for path in MODULES if path.relative_to(ROOT).parts[0] in packages]


def imports(tree: ast.AST) -> Iterator[str]:
    """Full names of the modules imported anywhere below `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            yield node.module or ""


def imported(path: Path) -> set[str]:
    """Top-level names of what a file imports."""
    return {name.partition(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))}


def kept_files() -> list[Path]:
    """Files that git keeps or would keep; outside a git checkout, all but the usual leavings."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    else:
        left = {".venv", "build", "__pycache__"}
        paths = [path for path in ROOT.rglob("*") if not left & set(path.relative_to(ROOT).parts)]
    return [path for path in paths if path.is_file()]


def kept_texts() -> Iterator[tuple[Path, str]]:
    for path in kept_files():
        if path.relative_to(ROOT).as_posix().startswith(DATA):
            continue
        content = path.read_bytes()
        if b"\0" not in content:
            yield path.relative_to(ROOT), content.decode("utf-8")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]  # type: ignore[no-any-return]


def requirements(*, dev: bool) -> list[Requirement]:
    extras = project()["optional-dependencies"]
    names = [*project()["dependencies"], *extras["evals"], *extras["cluster"], *(extras["dev"] if dev else [])]
    return [Requirement(name) for name in names]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", f"constraints.txt leaves {requirement.name} open"
            found[canonicalize_name(requirement.name)] = pin.version
    return found


# ------------------------------------------------------------------------------------------ who knows whom
@pytest.mark.parametrize("path", in_package("core", "resources"), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_the_engine_knows_neither_window_nor_front_end(path: Path) -> None:
    assert not imported(path) & (QT | {"app", "tests"})


def test_the_front_end_starts_without_torch() -> None:
    """A window, or `--help`, must not wait for torch; nor the window for plots."""
    code = ("import sys, app.cli, app.shell; "
            "sys.exit(', '.join({'torch', 'transformers', 'numba', 'numpy', 'pyqtgraph'} & set(sys.modules)) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", in_package("app"), ids=lambda p: p.name)
def test_the_front_end_imports_heavy_libraries_only_when_a_command_runs(path: Path) -> None:
    body = ast.parse(path.read_text(encoding="utf-8")).body  # not what stands inside functions: that comes later
    at_once = {name.partition(".")[0] for node in body if isinstance(node, ast.Import | ast.ImportFrom) for name in imports(node)}
    late = {"numpy"} if "charts" in path.parts else set()   # plots are made when their page is first shown
    assert not at_once & ({"torch", "numba", "numpy", "transformers", "datasets"} - late)


def test_contracts_name_every_module_of_the_engine() -> None:
    """Otherwise a new module would stand outside the layers."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = next(c for c in tools["importlinter"]["contracts"] if c["type"] == "layers")
    assert layers["exhaustive"] is True
    named = {name.strip() for layer in layers["layers"] for name in layer.split("|")}
    present = {p.stem for p in (ROOT / "core").glob("*.py")} | {p.parent.name for p in (ROOT / "core").glob("*/__init__.py")}
    assert named == present - {"__init__"}


# ---------------------------------------------------------------------------------------- what files hold
@pytest.mark.parametrize("path", in_package(*PACKAGES), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_every_module_says_what_it_is(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) or not tree.body, "a module starts with a docstring"


def test_no_path_of_a_machine_is_kept() -> None:
    homes = re.compile(r"(?<![\w.])/(?:work|root|home|Users)/\w")
    guilty = [f"{path}: {found[0]}" for path, text in kept_texts() if (found := homes.search(text))]
    assert guilty == []


def test_lines_end_plainly_and_hold_no_tabs() -> None:
    guilty = []
    for path, text in kept_texts():
        if "\r" in text or re.search(r"[ \t]+$", text, re.MULTILINE) or (text and not text.endswith("\n")):
            guilty.append(f"{path}: blanks at the end of a line, or no newline at the end")
        if "\t" in text and path.name != "Makefile" and path.suffix != ".jsonl":
            guilty.append(f"{path}: tabs")
    assert guilty == []


@pytest.mark.parametrize("name", ["Makefile", "pyproject.toml", "constraints.txt", ".ci/run"])
def test_the_set_up_names_no_host(name: str) -> None:
    """Where packages come from is pip's setting, not ours."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"--(extra-)?index-url|--find-links|--trusted-host", text)


# ------------------------------------------------------------------------------------------ what is needed
def test_constraints_pin_every_dependency_within_its_range() -> None:
    pinned = pins()
    for requirement in requirements(dev=True):
        name = canonicalize_name(requirement.name)
        assert name in pinned, f"constraints.txt lacks {name}"
        assert requirement.specifier.contains(pinned[name]), f"{name} {pinned[name]} is outside {requirement.specifier}"


def test_everything_imported_is_a_declared_dependency() -> None:
    known = packages_distributions()
    for packages, dev in ((PACKAGES, False), (("tests",), True)):
        declared = {canonicalize_name(requirement.name) for requirement in requirements(dev=dev)}
        ours = {*PACKAGES, "tests"} | set(sys.stdlib_module_names)
        for path in in_package(*packages):
            for name in imported(path) - ours:
                distributions = {canonicalize_name(d) for d in known.get(name, [name])}   # an extra may not be installed
                assert distributions & declared, f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not name"


def test_the_version_is_the_engines() -> None:
    from core import __version__

    assert project()["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


# ---------------------------------------------------------------------------------------------- benchmarks
FIGURE = {"name": "a", "value": 1.5, "unit": "x", "reference": "b", "goal": 2, "better": "lower"}


@pytest.mark.parametrize(
    "change", [{"better": "smaller"}, {"value": float("nan")}, {"value": "1"}, {"goal": True}, {"more": 1}], ids=str
)
def test_a_figure_that_is_not_as_agreed_is_named(change: dict[str, Any]) -> None:
    assert problem_with(FIGURE) == problem_with(FIGURE | {"goal": None}) == ""
    assert problem_with(FIGURE | change)


def test_a_failing_benchmark_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "some_benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "bench_a_raises.py").write_text("def run():\n    raise RuntimeError('no luck')\n")
    (package / "bench_b_dies.py").write_text("import os\ndef run():\n    os._exit(3)\n")
    (package / "bench_c_works.py").write_text(f"def run():\n    return [{FIGURE!r}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    output = tmp_path / "build" / "benchmarks.json"
    assert run_benchmarks(["--output", str(output)], package.name) == 1
    assert json.loads(output.read_text()) == [FIGURE]
    printed = capfd.readouterr()
    assert "no luck" in printed.err
    assert "bench_a_raises, bench_b_dies" in printed.err
    assert "met" in printed.out
    assert run_benchmarks(["--output", str(output), "--only", "c_works"], package.name) == 0

"""What is installed is the tree: a wheel built from it holds every file of the three packages, and both entry points."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.test_house import ROOT, kept_files

_BUILD = """
import sys
from setuptools import build_meta
print("wheel:" + build_meta.build_wheel(sys.argv[1]))
"""


def test_the_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    out.mkdir()
    tree = {path.relative_to(ROOT).as_posix() for path in kept_files()}
    wanted = {name for name in tree if name.split("/")[0] in ("app", "core", "resources")}
    for name in (*wanted, "pyproject.toml", "README.md", "LICENSE"):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(ROOT / name, target)
        except OSError:                                # another file system
            shutil.copyfile(ROOT / name, target)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", _BUILD, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name = next(line for line in done.stdout.splitlines() if line.startswith("wheel:")).removeprefix("wheel:")
    with zipfile.ZipFile(out / name) as wheel:
        held = set(wheel.namelist())
        (points,) = [wheel.read(n).decode() for n in held if n.endswith("entry_points.txt")]
    assert {n for n in held if ".dist-info/" not in n} == wanted
    assert {"resources/demo/tiny-base/model.safetensors", "resources/themes/dark.toml", "resources/icons/deltadeck.svg",
            "resources/desktop/deltadeck.desktop", "resources/calibration/prose.txt", "core/FORMAT.md"} <= held
    assert "deltadeck = app.__main__:main" in points and "deltadeck-window = app.__main__:window" in points

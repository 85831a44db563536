"""What a machine has, and what keeps the engine from working on it: versions, devices, memory, folders, and the self-test.

Nothing here imports torch. What might not load, or might bring a process down (a library built for another processor, a
broken driver, a kernel), is tried in a process of its own that tells line by line how far it came.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from core import __version__

NEEDED = ("numpy", "torch", "numba", "llvmlite", "scipy", "safetensors", "tokenizers", "transformers", "accelerate", "datasets",
          "pyarrow", "huggingface_hub", "gguf", "msgspec")
"""Modules that the engine can't do without."""
LISTED = (*NEEDED, "PySide6-Essentials", "pyqtgraph", "typer", "rich", "psutil", "platformdirs", "triton")
"""Distributions whose versions a report names."""
LONGEST = 600
"""Seconds for the trial process: kernels are compiled at a first run."""
LITTLE_DISK = 2 << 30
"""Free bytes of a folder below which a delta of a large model may not fit."""
_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512bf16", "avx512fp16", "amx-bf16", "neon", "fullfp16", "bf16", "sve")

State = Literal["fine", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `remedy` says what to do where something is broken or worth a note."""

    group: str
    name: str
    state: State = "fine"
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Report:
    """All findings, and the facts of the machine (versions by package, devices, memory and free disk in bytes, seconds of the
    self-check's parts)."""

    findings: tuple[Finding, ...]
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is broken."""
        return tuple(f for f in self.findings if f.state == "broken")

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"fine": not self.problems, "versions": self.versions, "machine": self.machine,
                "findings": [asdict(f) for f in self.findings]}


def examine(data: Path, tell: Callable[[str], object] | None = None, more: tuple[Finding, ...] = ()) -> Report:
    """Look at everything; takes some seconds, at a first run (kernels are compiled) up to a minute or two.

    data: the program's data folder; `tell(name)` is called before each trial and may raise to end it; `more` is put first.
    """
    findings = [*more, *_folders(data)]
    machine = _machine(data)
    found, devices = _trials(tell)
    return Report((*findings, *found), versions(), machine | devices)


def versions() -> dict[str, str]:
    """Versions by distribution name, "absent" where there is none; nothing is imported."""
    found = {"deltadeck": __version__, "python": platform.python_version()}
    for name in LISTED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _machine(data: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"system": platform.platform(), "processor": platform.machine(), "cores": os.cpu_count() or 1}
    try:
        import psutil

        memory = psutil.virtual_memory()
        found |= {"memory": memory.total, "memory_free": memory.available}
    except (ImportError, OSError):                     # said by the trial of imports, or not knowable here
        pass
    if (free := _free(data)) is not None:
        found["disk_free"] = free
    return found


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(_nearest(folder)).free
    except OSError:
        return None


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


# ------------------------------------------------------------------------------------------------ folders
def _folders(data: Path) -> Iterator[Finding]:
    why = _unwritable(data)
    yield Finding("folders", "data folder", "broken" if why else "fine", f"{data}: {why}" if why else str(data),
                  "Make it writable, or name another one in DELTADECK_DATA." if why else "")
    free = _free(data)
    if free is not None and free < LITTLE_DISK:
        yield Finding("folders", "free disk", "note", f"{free / 1e9:.1f} GB are free where {data} lies.",
                      "Free some space before large jobs.")
    cache = _hub_cache()
    why = _unwritable(cache)
    yield Finding("folders", "hub cache", "note" if why else "fine", f"{cache}: {why}" if why else str(cache),
                  "Models can't be fetched. Make it writable, or name another one in HF_HOME." if why else "")
    places = _kernel_caches()
    place = next((p for p in places if not _unwritable(p)), None)
    yield Finding("folders", "kernel cache", "fine" if place else "note", str(place) if place else "No folder can be written to.",
                  "" if place else "Kernels are compiled at every start, which takes seconds. Name a folder in NUMBA_CACHE_DIR.")


def _hub_cache() -> Path:
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named)
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface") / "hub"


def _kernel_caches() -> list[Path]:
    """Where numba looks for a place, in its order."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(named)]
    found = [Path(__file__).parent / "__pycache__"]
    try:
        from platformdirs import user_cache_path

        found.append(user_cache_path("numba", appauthor=False))
    except ImportError:
        pass
    return found


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder, or to where it would be made; empty if it can."""
    try:
        near = _nearest(folder)
        if not near.is_dir():
            return "it is no folder" if near == folder else f"{near} is no folder"
        with tempfile.TemporaryFile(dir=near) as file:
            file.write(b"0")
    except OSError as e:
        return (e.strerror or str(e)).lower()
    return ""


# ------------------------------------------------------------------------------------- the trial process
def _trials(tell: Callable[[str], object] | None) -> tuple[list[Finding], dict[str, Any]]:
    """Findings and devices as the trial process tells them, and how it ended if that was not well."""
    root = str(Path(__file__).resolve().parents[1])
    code = f"import sys; sys.path.append({root!r}); from core.doctor import _try_all; _try_all()"
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as complaints:
        process = subprocess.Popen([sys.executable, "-X", "faulthandler", "-c", code], stdout=subprocess.PIPE, stderr=complaints,
                                   stdin=subprocess.DEVNULL, encoding="utf-8", errors="replace",
                                   env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "TRANSFORMERS_VERBOSITY": "error"})
        watch = _kill_after(process, LONGEST)
        try:
            return _listen(process, tell, complaints)
        finally:
            watch.cancel()
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _kill_after(process: subprocess.Popen[str], seconds: float) -> Any:
    import threading

    watch = threading.Timer(seconds, process.kill)
    watch.daemon = True
    watch.start()
    return watch


def _listen(process: subprocess.Popen[str], tell: Callable[[str], object] | None, complaints: Any) -> tuple[
        list[Finding], dict[str, Any]]:
    findings: list[Finding] = []
    devices: dict[str, Any] = {}
    now, ended = "starting Python", False
    assert process.stdout is not None
    for line in process.stdout:
        try:
            said = json.loads(line)
            kind = said.pop("is")
        except (ValueError, KeyError, AttributeError, TypeError):          # some library prints to stdout
            continue
        if kind == "begin":
            now = str(said["name"])
            if tell is not None:
                tell(now)
        elif kind == "finding":
            findings.append(Finding(**said))
        elif kind in ("devices", "seconds"):
            devices |= said
        elif kind == "end":
            ended = True
    code = process.wait()
    if not ended:
        complaints.seek(0)
        last = [line.strip() for line in complaints.read().splitlines() if line.strip()][:3]
        how = f"ended with signal {-code}" if code < 0 else f"ended with code {code}"
        findings.append(Finding("self-test", now, "broken", f"The trial process {how}. {' '.join(last)}".strip()[:600],
                                "Install Deltadeck again in a new environment; if it comes back, report it with this page."))
    return findings, devices


def _say(kind: str, **what: Any) -> None:
    sys.stdout.write(json.dumps({"is": kind, **what}) + "\n")
    sys.stdout.flush()


def _try_all() -> None:
    """In the trial process: import what is needed, look at the devices, run every check."""
    began, broken = time.perf_counter(), []
    for name in NEEDED:
        _say("begin", name=f"importing {name}")
        try:
            import_module(name)
        except BaseException as e:                     # whatever its reason, the others are tried too
            broken.append(name)
            _say("finding", **asdict(Finding("libraries", name, "broken", _words(e), _remedy_for(name, e))))
    if not broken:
        seconds = time.perf_counter() - began
        _say("finding", **asdict(Finding("libraries", "engine", "fine", f"{len(NEEDED)} libraries load, {seconds:.1f} s")))
        _try_engine(seconds)
    else:
        _say("finding", **asdict(Finding("self-test", "kernels", "note", "Not run: libraries are missing.",
                                         "Mend the libraries first.")))
    _say("end")


def _remedy_for(name: str, error: BaseException) -> str:
    package = name.replace("_", "-")
    if isinstance(error, ModuleNotFoundError) and error.name == name:
        return f"Install it into Deltadeck's environment: {_pip()} install {package}"
    return f"Install it again: {_pip()} install --force-reinstall --no-deps {package}"


def _pip() -> str:
    return f'"{sys.executable}" -m pip' if " " in sys.executable else f"{sys.executable} -m pip"


def _try_engine(libraries: float) -> None:
    _say("begin", name="looking at the devices")
    preparing = checking = 0.0
    try:
        _say("devices", devices=_devices())
        from core import selftest

        for check in selftest.checks():
            _say("begin", name=f"{check.name} on {check.device}")
            result = selftest.perform(check)
            name, took = f"{result.name} on {result.device}", f"{result.seconds:.3f} s"
            if result.preparing >= 0.1:
                took += f", and {result.preparing:.1f} s until its kernels were ready"
            preparing, checking = preparing + result.preparing, checking + result.seconds
            _say("finding", **asdict(Finding("self-test", name, "broken", result.problem, _mend(result.device)) if result.problem
                                     else Finding("self-test", name, "fine", took)))
        _say("seconds", seconds={"libraries": libraries, "kernels": preparing, "checks": checking})
    except Exception as e:
        _say("finding", **asdict(Finding("self-test", "kernels", "broken", _words(e),
                                         "Install Deltadeck again; if it comes back, report it with this page.")))


def _mend(device: str) -> str:
    if device != "cpu":
        return "Don't use this device for jobs until it is mended: update its driver and torch."
    return "Install numba, llvmlite and torch again; if it comes back, report it with this page."


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _devices() -> list[dict[str, Any]]:
    """Kind, name, bytes of memory where it has its own, and features of the processor that kernels care about."""
    import torch
    from llvmlite import binding

    from core.devices import available_devices

    found: list[dict[str, Any]] = []
    for kind in available_devices():
        if kind == "cuda":
            for i in range(torch.cuda.device_count()):
                facts = torch.cuda.get_device_properties(i)
                found.append({"kind": f"cuda:{i}", "name": facts.name, "memory": facts.total_memory,
                              "features": [f"sm_{facts.major}{facts.minor}", f"CUDA {torch.version.cuda}"]})
        elif kind == "cpu":
            try:
                has = binding.get_host_cpu_features()
            except RuntimeError:                       # not known for this processor
                has = {}
            found.append({"kind": kind, "name": binding.get_host_cpu_name(), "threads": torch.get_num_threads(),
                          "features": [name for name in _FEATURES if has.get(name)]})
        else:
            found.append({"kind": kind, "name": "Apple GPU", "features": []})
    return found

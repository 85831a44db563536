"""Which of the system's libraries Qt's window needs and does not find here, and the line that installs them."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

_XCB_UTIL = "xcb-util"
PACKAGES: dict[str, tuple[str, str, str]] = {
    # file: package of Debian and Ubuntu, of Fedora, of Arch
    "libEGL.so.1": ("libegl1", "libglvnd-egl", "libglvnd"),
    "libGL.so.1": ("libgl1", "libglvnd-glx", "libglvnd"),
    "libdbus-1.so.3": ("libdbus-1-3", "dbus-libs", "dbus"),
    "libfontconfig.so.1": ("libfontconfig1", "fontconfig", "fontconfig"),
    "libfreetype.so.6": ("libfreetype6", "freetype", "freetype2"),
    "libglib-2.0.so.0": ("libglib2.0-0", "glib2", "glib2"),
    "libxkbcommon.so.0": ("libxkbcommon0", "libxkbcommon", "libxkbcommon"),
    "libxkbcommon-x11.so.0": ("libxkbcommon-x11-0", "libxkbcommon-x11", "libxkbcommon-x11"),
    "libX11.so.6": ("libx11-6", "libX11", "libx11"),
    "libX11-xcb.so.1": ("libx11-xcb1", "libX11-xcb", "libx11"),
    "libxcb.so.1": ("libxcb1", "libxcb", "libxcb"),
    "libxcb-cursor.so.0": ("libxcb-cursor0", f"{_XCB_UTIL}-cursor", f"{_XCB_UTIL}-cursor"),
    "libxcb-icccm.so.4": ("libxcb-icccm4", f"{_XCB_UTIL}-wm", f"{_XCB_UTIL}-wm"),
    "libxcb-keysyms.so.1": ("libxcb-keysyms1", f"{_XCB_UTIL}-keysyms", f"{_XCB_UTIL}-keysyms"),
    "libxcb-image.so.0": ("libxcb-image0", f"{_XCB_UTIL}-image", f"{_XCB_UTIL}-image"),
    "libxcb-util.so.1": ("libxcb-util1", _XCB_UTIL, _XCB_UTIL),
    "libxcb-render-util.so.0": ("libxcb-render-util0", f"{_XCB_UTIL}-renderutil", f"{_XCB_UTIL}-renderutil"),
    **{f"libxcb-{part}.so.0": (f"libxcb-{part}0", "libxcb", "libxcb") for part in
       ("shape", "render", "shm", "randr", "xfixes", "xinerama")},
    "libxcb-sync.so.1": ("libxcb-sync1", "libxcb", "libxcb"),
    "libxcb-xkb.so.1": ("libxcb-xkb1", "libxcb", "libxcb"),
}
_INSTALL = {"apt": "apt-get install", "dnf": "dnf install", "pacman": "pacman -S --needed", "zypper": "zypper install"}


def family(release: str) -> str:
    """`apt`, `dnf`, `pacman`, `zypper`, or empty, from the text of /etc/os-release."""
    words = set(re.findall(r"[\w.-]+", " ".join(re.findall(r"^ID(?:_LIKE)?=(.*)$", release, re.MULTILINE)).lower()))
    for name, ids in (("apt", {"debian", "ubuntu"}), ("dnf", {"fedora", "rhel", "centos"}), ("pacman", {"arch", "archlinux"}),
                      ("zypper", {"suse", "opensuse"})):
        if words & ids or (name == "zypper" and any(w.startswith("opensuse") for w in words)):
            return name
    return ""


def install_line(missing: Sequence[str], manager: str, *, is_root: bool = False) -> str:
    """The line that installs the packages of some libraries, or a sentence where no package manager is known."""
    if manager not in _INSTALL:
        return f"Install the packages of your system that hold: {', '.join(missing)}."
    if manager == "zypper":                            # finds packages by the library they hold
        wanted = [f"'{name}()(64bit)'" for name in missing]
    else:
        at = ("apt", "dnf", "pacman").index(manager)
        wanted = list(dict.fromkeys(PACKAGES[name][at] for name in missing if name in PACKAGES))
        unknown = [name for name in missing if name not in PACKAGES]
        wanted += [f"'{name}()(64bit)'" for name in unknown] if manager == "dnf" else []
    line = f"{'' if is_root else 'sudo '}{_INSTALL[manager]} {' '.join(wanted)}" if wanted else ""
    rest = [name for name in missing if name not in PACKAGES] if manager in ("apt", "pacman") else []
    return " ".join(part for part in (line, f"Find the packages that hold: {', '.join(rest)}." if rest else "") if part)


def missing_libraries() -> list[str]:
    """File names of libraries that Qt's plugin for X11 needs, directly or not, and that don't load. Linux only."""
    if not sys.platform.startswith("linux"):
        return []
    found = [name for name in PACKAGES if name != "libxcb-util.so.1" and not _loads(name)]
    return list(dict.fromkeys([*found, *_unresolved()]))


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def _unresolved() -> list[str]:
    """What the dynamic linker does not find for the plugin and the Qt libraries it stands on."""
    spec, ldd = find_spec("PySide6"), shutil.which("ldd")
    if spec is None or spec.origin is None or ldd is None:
        return []
    qt = Path(spec.origin).parent / "Qt"
    plugin = qt / "plugins" / "platforms" / "libqxcb.so"
    if not plugin.is_file():
        return []
    try:
        said = subprocess.run([ldd, str(plugin)], capture_output=True, text=True, timeout=30, env=_plain_environment()).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return re.findall(r"^\s*(\S+) => not found", said, re.MULTILINE)


def _plain_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    return {**environment, "LC_ALL": "C"}


def this_system() -> str:
    """The package manager of this machine; see `family`."""
    for place in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            return family(Path(place).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return ""

"""The address of a Ray cluster, and whether this program can speak to one. Loads nothing."""

from __future__ import annotations

import importlib.util
import re

INSTALL = "pip install 'deltadeck[cluster]'"
"""What brings the extra that clusters need."""
EXAMPLE = "ray://head.example.org:10001"

_FORM = re.compile(r"ray://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


def address_problem(text: str) -> str:
    """Why a text is no cluster's address; empty where it is one."""
    if not text:
        return f"Give the address of the cluster's head, as in {EXAMPLE}."
    if not text.startswith("ray://"):
        return "It begins with ray://, then comes the head's name or number, and its port."
    found = _FORM.fullmatch(text)
    if found is None:
        return f"Give it as ray://HOST:PORT, as in {EXAMPLE}."
    if not 1 <= int(found[2]) <= 65535:
        return f"{found[2]} is no port: it lies between 1 and 65535, and is 10001 unless the head says otherwise."
    return ""


def has_ray() -> bool:
    """Whether the extra `cluster` is installed."""
    try:
        return importlib.util.find_spec("ray") is not None
    except (ImportError, ValueError):
        return False

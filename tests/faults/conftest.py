"""No screen is needed, and torch must not make threads for matrices this small."""

from __future__ import annotations

import os

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

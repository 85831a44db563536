"""The real pairs that benchmarks measure on.

`DELTADECK_PAIRS` names a folder with `base` and fine-tunes (`pirate`, `bard`) beside it; without it, the demo pair is
made (once) or reused.
"""

from __future__ import annotations

import os
from pathlib import Path


def real_pairs() -> dict[str, tuple[Path, Path]]:
    """{name: (base, fine-tune)}. Raises `DemoUnavailable` when there is no pair and none can be made."""
    folder = os.environ.get("DELTADECK_PAIRS")
    if folder:
        root = Path(folder)
        return {name: (root / "base", root / name) for name in ("pirate", "bard") if (root / name).is_dir()}
    from core.demo import default_demo_folder, make_demo_pair
    pair = make_demo_pair(default_demo_folder())
    return {"pirate": (pair.base, pair.fine_tuned)}

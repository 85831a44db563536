"""Put source files of this project into the calibration text, as they are now.

python -m resources.making.gather_code
"""

from __future__ import annotations

from pathlib import Path

from resources.making.public_domain import SEPARATOR

_ROOT = Path(__file__).resolve().parents[2]
_FILES = (
    "resources/demo/world.py",
    "resources/demo/tiny_text.py",
    "resources/demo/decode.py",
    "resources/demo/make_tiny.py",
    "core/demo_process.py",
    "core/demo_base.py",
    "core/demo_train.py",
    "core/demo.py",
)


def main() -> None:
    """Write `calibration/own_code.txt`."""
    texts = [(_ROOT / name).read_text(encoding="utf-8").strip() for name in _FILES]
    target = _ROOT / "resources" / "calibration" / "own_code.txt"
    target.write_text(SEPARATOR.join(texts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

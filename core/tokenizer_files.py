"""A tokenizer made of files that may come from anywhere: nothing but these files is opened, nothing in them is run.

transformers takes whatever `tokenizer_config.json` holds as arguments, paths of further files among them. So the files are
copied to a folder of their own, without such entries, and the result is tried before anybody counts on it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST = 1 << 28
"""Bytes of one file; the largest vocabularies have some 30 MB."""
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json", "generation_config.json")
_PROBE = "Some words, 12 of them.\n"


def make_tokenizer(files: Mapping[str, Path]) -> Any:
    """The tokenizer that these files (by name) make, with its chat template.

    Raises ValueError with a reason, without a full stop, for files that can't be used, whatever is wrong with them.
    """
    from transformers import AutoTokenizer

    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, path in files.items():
                _copy(path, Path(folder) / name)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        _try(tokenizer)
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:                     # Rust's panics are no `Exception`; each class fails in a way of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300].rstrip(".")
        raise ValueError(reason or type(error).__name__) from error
    return tokenizer


def _copy(source: Path, target: Path) -> None:
    if not source.is_file() or source.stat().st_size > LARGEST:
        raise ValueError(f"{target.name} is no file, or too large for a tokenizer's")
    if target.name not in _CONFIGS:
        shutil.copyfile(source, target)
        return
    try:
        found = json.loads(source.read_bytes())
    except RecursionError as error:
        raise ValueError(f"{target.name} is nested without end") from error
    if not isinstance(found, dict):
        raise ValueError(f"{target.name} holds no JSON object")
    if target.name == "tokenizer_config.json":         # paths of other files, and code
        found = {k: v for k, v in found.items() if not k.endswith(("_file", "_files")) and k != "auto_map"}
    target.write_text(json.dumps(found), encoding="utf-8")


def _try(tokenizer: Any) -> None:
    """Use it as the program will, so that what is wrong with it shows at once."""
    ids = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if not all(type(i) is int and i >= 0 for i in ids) or len(ids) > 100 * len(_PROBE):
        raise ValueError("it makes no tokens of a plain sentence")
    tokenizer.decode(ids)
    tokenizer("a", verbose=False)
    for name in ("bos_token_id", "eos_token_id"):
        if not isinstance(getattr(tokenizer, name), int | None):
            raise ValueError(f"its {name} is no number")
    if any(not isinstance(token.special, bool) for token in tokenizer.added_tokens_decoder.values()):
        raise ValueError("its added tokens can't be told")

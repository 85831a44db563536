"""Chat templates are programs that come with a model. They are rendered in a process of their own, within limits.

jinja2's sandbox keeps a template from files, attributes and calls, but not from looping or growing without end, which
nothing can stop from inside the program. So a second process renders (see `core.template_child`): it is ended when it
takes too long, has little memory, and a template that once broke a limit is refused from then on.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any

SECONDS = 5.0
"""That a template may take for one conversation."""
_START = 60.0
"""Seconds for the process to start, on a machine that is busy with other things."""
_CHILD = Path(__file__).with_name("template_child.py")


class TemplateRefused(ValueError):
    """A template can't be rendered: what it, the sandbox or a limit said, without a full stop."""


class _Renderer:
    """The process, started at first use and again after it was ended; one conversation at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._refused: dict[bytes, str] = {}

    def render(self, asked: Mapping[str, Any]) -> str:
        """The text for a request as the child takes it; raises `TemplateRefused`."""
        key = hashlib.sha256(asked["template"].encode("utf-8", "replace")).digest()
        with self._lock:
            if key in self._refused:
                raise TemplateRefused(self._refused[key])
            if self._child is None or self._child.poll() is not None:
                self._start()
            answer = self._ask(json.dumps(asked).encode() + b"\n", SECONDS)
            if answer is None:
                answer = {"error": "it takes too long, or too much memory", "fatal": "yes"}
            if answer.get("fatal"):
                self._refused[key] = answer["error"]
        if "text" not in answer:
            raise TemplateRefused(answer["error"])
        return answer["text"]

    def _start(self) -> None:
        self.close()
        self._child = subprocess.Popen([sys.executable, "-P", "-B", str(_CHILD)], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if self._ask(b"", _START) is None:
            raise TemplateRefused("the process that renders templates could not be started")

    def _ask(self, line: bytes, seconds: float) -> dict[str, str] | None:
        """The child's next answer; None, and no child any more, where it does not come in time."""
        child, got = self._child, list[bytes]()
        assert child is not None and child.stdin is not None and child.stdout is not None
        stdin, stdout = child.stdin, child.stdout

        def exchange() -> None:
            with suppress(OSError, ValueError):        # it died, or was ended
                stdin.write(line)
                stdin.flush()
                got.append(stdout.readline())
        thread = Thread(target=exchange, name="deltadeck-template", daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive() or not got or not got[0].endswith(b"\n"):
            child.kill()
            thread.join()
            self.close()
            return None
        answer: dict[str, str] = json.loads(got[0])
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            if pipe is not None:
                with suppress(OSError):                # what was not read any more
                    pipe.close()


_RENDERER = _Renderer()
atexit.register(_RENDERER.close)


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, template: str | None = None, ask: bool = False) -> str:
    """A conversation as a tokenizer's chat template (or another) writes it; `ask` for what comes before an answer.

    The same text as `tokenizer.apply_chat_template(messages, tokenize=False)` gives. Raises `TemplateRefused`.
    """
    chosen = template if template is not None else tokenizer.get_chat_template()
    if not isinstance(chosen, str):
        raise TemplateRefused("it is no text")
    if not messages:
        raise TemplateRefused("there is no message")
    plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
    tokens = {str(k): str(v) for k, v in tokenizer.special_tokens_map.items() if k not in ("messages", "add_generation_prompt")}
    return _RENDERER.render({"template": chosen, "messages": plain, "ask": ask, "tokens": tokens})

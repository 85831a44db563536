"""The process in which chat templates are rendered: it knows jinja2's sandbox, has little memory and nothing to lose.

It is started by `core.chat_template` as a script of its own, so nothing of `core` is imported here. A line of JSON on standard
input asks ({"template", "messages", "ask", "tokens"}), a line of JSON on standard output answers ({"text"} or {"error"}).
What a template finds there is what Hugging Face documents for chat templates ("Advanced usage and customizing your chat
templates"): `messages`, `add_generation_prompt`, the special tokens by name, `raise_exception`, `strftime_now`, `tojson`,
`namespace`, `break` and `continue`, and the tag `generation`, which only marks text.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.nodes
import jinja2.parser
import jinja2.utils
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

MEMORY = 1 << 29
"""Bytes of address space beyond what the process begins with."""
LONGEST = 1 << 24
"""Characters that a rendered conversation may have."""


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` stands for what is between them."""

    tags = {"generation"}  # noqa: RUF012  # as jinja2 declares it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        """The nodes between the two tags."""
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


class Names(jinja2.utils.Namespace):
    """`namespace(...)`: assignable names, none of which begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:   # `self` must stay a possible name
        table = dict(*args[1:], **kwargs)
        for name in table:
            _check_name(name)
        jinja2.utils.Namespace.__init__(args[0], table)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"the name {name!r} may not be assigned")


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: tuple[str, str] | None = None,
            sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: object) -> None:
    raise jinja2.exceptions.TemplateError(str(message))


@lru_cache(8)
def compiled(template: str) -> jinja2.Template:
    """A template, ready to be rendered."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[Generation, "jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise, "namespace": Names, "dict": lambda *a, **k: dict(*a, **k),
                            "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment.from_string(template)


def answer(asked: dict[str, Any]) -> dict[str, str]:
    """The text, or what the template or the sandbox said against it."""
    try:
        text = compiled(asked["template"]).render(messages=asked["messages"], tools=None, documents=None,
                                                  add_generation_prompt=asked["ask"], **asked["tokens"])
    except MemoryError:
        return {"error": "it needs too much memory", "fatal": "yes"}
    except Exception as error:                         # templates are programs: they may raise anything
        return {"error": (str(error).strip().splitlines() or [type(error).__name__])[0][:300]}
    return {"text": text} if len(text) <= LONGEST else {"error": "what it makes is too long", "fatal": "yes"}


def _limit_memory() -> None:
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    except (ImportError, OSError, ValueError):         # no such limit on this system: time is limited all the same
        return


def main() -> None:
    """Answer until there is nothing more to read."""
    _limit_memory()
    out = sys.stdout.buffer
    out.write(b"{}\n")
    out.flush()
    for line in sys.stdin.buffer:
        out.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        out.flush()


if __name__ == "__main__":
    main()

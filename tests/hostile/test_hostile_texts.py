"""What comes with a model or is said by one: chat templates, tokenizers, Markdown. Nothing runs, loads, or never ends."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PySide6.QtCore import QUrl
from PySide6.QtGui import QImage, QTextDocument
from pytestqt.qtbot import QtBot
from transformers import PreTrainedTokenizerFast

from app.pages.chat.markdown import Prose
from app.pages.deltas.card_view import CardView
from app.theme import Theme
from core import chat_template
from core.calibration import load_tokenizer, render
from core.chat_template import TemplateRefused, render_chat
from core.errors import CalibrationUnusable
from core.tokenizer_files import make_tokenizer as tokenizer_of
from tests.hostile.mutate import spoil_bytes, spoil_json

TALK = [{"role": "user", "content": "h\u00e9\nllo"}, {"role": "assistant", "content": "x <b>"}]


# ---------------------------------------------------------------------------------------------------------- templates
@pytest.mark.parametrize("template", [
    "{% for m in messages %}<{{ m.role }}>{{ m['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}",
    "{%- set ns = namespace(n=0) %}{% for m in messages -%} {% set ns.n = ns.n + 1 %}{{ ns.n }}{{ m | tojson }} {%- endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% endfor %}",
    "{{ dict(a=1, b=[1, 2]) | tojson(indent=2) }}{{ tools is none }}{{ strftime_now('%%') }}{{ messages | length }}",
    "{% macro f(x) %}[{{ x }}]{% endmacro %}{{ f(messages[0].content) }}{{ messages[-1]['content'].split('<')[0] }}"])
@pytest.mark.parametrize("ask", [False, True])
def test_templates_make_what_transformers_makes(make_tokenizer: Callable[..., Any], template: str, ask: bool) -> None:
    tokenizer: PreTrainedTokenizerFast = make_tokenizer()
    tokenizer.chat_template = template
    expected = tokenizer.apply_chat_template(TALK, tokenize=False, add_generation_prompt=ask)
    assert render_chat(tokenizer, TALK, ask=ask) == expected


@pytest.mark.parametrize(("template", "says"), [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "unsafe"),
    ("{{ lipsum.__globals__['os'].popen('id').read() }}", "unsafe"),
    ("{{ raise_exception.__globals__['json'] }}", "undefined|unsafe"),
    ("{% set _ = messages.append(1) %}", "unsafe"), ("{% set n = namespace(_x=1) %}", "may not be assigned"),
    ("{% include '/etc/passwd' %}", "no loader"), ("{{ raise_exception('no system') }}", "no system"), ("{% if %}", "Expected"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"), ("{{ 'a' * 10 ** 10 }}", "memory"),
    ("{{ 'a' | center(10 ** 10) }}", "memory"), ("{{ range(10 ** 9) | list }}", "too (big|large)|Range"),
    ("{{ 1 / 0 }}", "zero")])
def test_templates_that_reach_or_grow_too_far_are_refused(make_tokenizer: Callable[..., Any], template: str, says: str) -> None:
    with pytest.raises(TemplateRefused, match=says):
        render_chat(make_tokenizer(), TALK, template=template)
    assert render_chat(make_tokenizer(), TALK, template="{{ messages[0].role }}") == "user", "the next one is rendered"


def test_a_template_without_end_is_ended_and_not_tried_again(make_tokenizer: Callable[..., Any],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "{% set x = range(99999) | list %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}"
    tokenizer = make_tokenizer()
    render_chat(tokenizer, TALK, template="x")
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    with pytest.raises(TemplateRefused, match="too long"):
        render_chat(tokenizer, TALK, template=endless)
    monkeypatch.setattr(chat_template._Renderer, "_start", lambda self: pytest.fail("it was tried again"))
    with pytest.raises(TemplateRefused, match="too long"):
        render_chat(tokenizer, TALK, template=endless)
    tokenizer.chat_template = endless
    assert render(TALK, tokenizer).startswith("user: "), "text to calibrate on does without"


# --------------------------------------------------------------------------------------------------------- tokenizers
@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, make_tokenizer: Callable[..., Any]) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(begins=True, chats=True).save_pretrained(folder)
    return folder


def test_tokenizers_changed_by_chance(tmp_path: Path, sound: Path) -> None:
    rng, refused = Random("tokenizer"), 0
    names = ("tokenizer.json", "tokenizer.json", "tokenizer_config.json")
    for _ in range(40):
        for file in sound.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        name = rng.choice(names)
        raw = (sound / name).read_bytes()
        other = json.dumps(spoil_json(rng, json.loads(raw))).encode() if rng.random() < 0.8 else spoil_bytes(rng, raw)
        (tmp_path / name).write_bytes(other)
        try:
            made = load_tokenizer(tmp_path)
            assert made is not None and made("some text")["input_ids"] is not None
        except CalibrationUnusable as error:
            refused += 1
            assert error.remedy and len(str(error)) < 1500
    assert 5 < refused < 40


def test_a_panic_of_the_tokenizers_library_is_an_error(tmp_path: Path, sound: Path) -> None:
    files = {file.name: file for file in sound.iterdir()}
    table = json.loads(files["tokenizer.json"].read_bytes())
    table["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ValueError, match=r"."):
        tokenizer_of({**files, "tokenizer.json": tmp_path / "tokenizer.json"})


def test_a_tokenizer_names_no_file_elsewhere(tmp_path: Path, sound: Path, make_tokenizer: Callable[..., Any]) -> None:
    files = {file.name: file for file in sound.iterdir()}
    (tmp_path / "elsewhere.json").write_text("{}")
    config = {**json.loads(files["tokenizer_config.json"].read_bytes()), "auto_map": {"AutoTokenizer": ["x.Y", None]}}
    config |= {name: str(tmp_path / "elsewhere.json") for name in ("tokenizer_file", "vocab_file", "merges_file", "gguf_file")}
    config["fast_tokenizer_files"] = [f"../../{tmp_path.name}/tokenizer.4.0.json"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    made = tokenizer_of({**files, "tokenizer_config.json": tmp_path / "tokenizer_config.json"})
    assert made("abc", add_special_tokens=False)["input_ids"] == make_tokenizer()("abc")["input_ids"]


def test_pipes_and_holes_among_a_tokenizer_s_files_are_refused(tmp_path: Path, sound: Path) -> None:
    files = {file.name: file for file in sound.iterdir()}
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(2**40)
    for name in ("pipe", "hole"):
        with pytest.raises(ValueError, match="no file, or too large"):
            tokenizer_of({**files, "tokenizer.json": tmp_path / name})


# ----------------------------------------------------------------------------------------------------------- Markdown
@pytest.mark.parametrize("view", ["card", "chat"])
def test_no_picture_is_loaded_from_anywhere(qtbot: QtBot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: str) -> None:
    picture = QImage(40, 30, QImage.Format.Format_RGB32)
    assert picture.save(str(tmp_path / "pic.png"))
    os.mkfifo(tmp_path / "pipe.png")                   # one that is opened is waited for without end
    monkeypatch.chdir(tmp_path)
    theme = Theme("light")
    places = ["pic.png", str(tmp_path / "pic.png"), f"file://{tmp_path}/pic.png", f"file://{tmp_path}/pipe.png", "pipe.png",
              "https://example.org/x.png", "//host/share/x.png", "qrc:/x.png", ":/x.png",
              "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="]
    text = "\n\n".join(f"![p]({place})" for place in places) + f"\n\n<img src='{tmp_path}/pic.png'>\n"
    shown: CardView | Prose
    if view == "card":
        shown = card = CardView(theme)
        card.show_card(text)
    else:
        shown = prose = Prose(theme, "Answer")
        prose.show_text(text)
    qtbot.addWidget(shown)
    shown.resize(400, 300)
    shown.show()
    shown.grab()
    for place in places:
        held = shown.document().resource(int(QTextDocument.ResourceType.ImageResource.value), QUrl(place))
        assert isinstance(held, QImage) and held.width() == held.height() == 1

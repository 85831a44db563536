"""The Chat page, on the real session with an engine that says what the test wants; and once with the real engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PySide6.QtCore import QPoint, Qt, QUrl
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QAbstractItemModelTester, QTest
from PySide6.QtWidgets import QAbstractButton, QLineEdit, QMenu, QPlainTextEdit, QSlider, QWidget
from pytestqt.qtbot import QtBot

from app.actions import SWITCHES, Act
from app.chat.conversations import as_markdown, decode
from app.chat.session import Source
from app.chat.store import read_all
from app.context import Context
from app.library.entry import DeltaEntry
from app.pages.chat import ChatPage
from app.pages.chat.bases import list_bases
from app.pages.chat.facts import deck_facts
from app.pages.chat.history import ConversationModel, HistoryPopup, day_words
from app.pages.chat.markdown import Code, MarkdownView, Prose
from app.status_bar import StatusBar
from core.errors import DeltadeckError
from tests.app.chat.fakes import FakeEngine

LONG = "\n\n".join(f"Paragraph {i} with some words that go on for a while." for i in range(40))


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    made = FakeEngine()
    yield made
    made.gate.set()
    made.slow.set()


@pytest.fixture
def make_page(qtbot: QtBot, make_context: Callable[..., Context], engine: FakeEngine) -> Iterator[Callable[..., ChatPage]]:
    made: list[ChatPage] = []

    def make(**options: Any) -> ChatPage:
        ctx = make_context(chat_engine=options.pop("engine", engine), **options)
        ctx.engine.started = True                      # these tests look for no base on the disk
        page = ChatPage(ctx)
        page.resize(1112, 656)
        page.show()
        made.append(page)
        qtbot.waitUntil(lambda: page.store.loaded)
        return page
    yield make
    for page in made:
        engine.gate.set()
        page.session.close()
        page.close_down()
        page.close()
        page.deleteLater()


@pytest.fixture
def page(qtbot: QtBot, make_page: Callable[..., ChatPage], tmp_path: Path) -> ChatPage:
    """With a base and two deltas on the deck, the first of which answers."""
    made = make_page()
    load(qtbot, made, tmp_path)
    return made


def load(qtbot: QtBot, page: ChatPage, tmp_path: Path) -> None:
    sources = []
    for name in ("pirate", "bard"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "delta_config.json").write_text("{}")
        sources.append(Source(tmp_path / name))
    page.loading.open_deck(str(tmp_path / "tiny"), sources)
    qtbot.waitUntil(lambda: page.session.state == "ready" and not page.session.doing)


def say(qtbot: QtBot, page: ChatPage, text: str) -> None:
    page.composer.edit.setPlainText(text)
    page.send()
    qtbot.waitUntil(lambda: not page.session.is_answering)


def side_by_side(qtbot: QtBot, page: ChatPage) -> None:
    page.header.mode_chosen.emit("side")
    qtbot.waitUntil(lambda: not page.session.doing)


def shown(page: ChatPage, turn: int, letter: str) -> str:
    return "\n".join(page.thread_view.views()[turn].answers[letter].body.texts())


def test_it_begins_with_a_choice_of_bases(make_page: Callable[..., ChatPage], tmp_path: Path) -> None:
    page = make_page()
    assert page.blank.isVisible() and not page.composer.isVisible() and not page.drawer.isVisible()


def test_bases_come_in_the_order_in_which_they_are_wanted(tmp_path: Path) -> None:
    from app.checkpoints import Choice

    delta = DeltaEntry(tmp_path / "d", "d", base_path="/m/llama", fine_tuned_path="/m/tuned", sha256="x")
    found = list_bases((Choice("/m/tuned", "tuned", "Recent", 5, "~/tuned"), Choice("/m/other", "other", "Recent", 5, "~/other"),
                        Choice("/r/tiny-base", "tiny-base", "Demo", 1), Choice("/r/tiny-json", "tiny-json", "Demo", 1)), [delta])
    assert [b.name for b in found] == ["llama", "tiny-base", "other"]
    assert [s.name for s in found[0].sources] == ["d"] and found[0].note == "1 delta in the library"
    assert found[1].note == "Demo, built in, with tiny-json" and [s.name for s in found[1].sources] == ["tiny-json"]


def test_a_loaded_base_shows_its_variants_and_the_first_answers(page: ChatPage) -> None:
    assert [c.variant for c in page.bar.chips()] == ["base", "pirate", "bard"]
    assert page.talk.now.sides == ("pirate",) and page.composer.isVisible() and not page.absent.isVisible()
    assert page.note.text() == "pirate switched in 41 ms. 211 tensors, base verified"
    assert page.drawer.facts.value("In memory") == "269 MB, one copy"
    assert page.session.facts is not None
    page.session.facts = replace(page.session.facts, spread="2 GPUs and the CPU")
    assert deck_facts(page.session, 1)["In memory"] == "269 MB, over 2 GPUs and the CPU"
    bar = StatusBar(page._ctx)
    assert bar._base.text().endswith(", over 2 GPUs and the CPU") and "the CPU" in bar._base.toolTip()
    bar.deleteLater()


def test_loading_and_a_failure_are_shown(qtbot: QtBot, make_page: Callable[..., ChatPage], engine: FakeEngine) -> None:
    page = make_page()
    engine.slow.clear()
    engine.fail_open = DeltadeckError("It is no checkpoint.", "It has no config.json.", "Choose another folder.")
    page.loading.open_deck("models/tiny", ())
    assert page.blank.currentWidget() is page.blank.loading and page.blank.loading.cancel.isEnabled()
    engine.slow.set()
    qtbot.waitUntil(lambda: page.session.state == "failed")
    again = next(b for b in page.blank.findChildren(QAbstractButton) if b.text() == "Try again")
    engine.fail_open = None
    again.click()
    qtbot.waitUntil(lambda: page.session.state == "ready")
    assert page.composer.isVisible()


def test_a_prompt_is_sent_with_enter_and_answered(qtbot: QtBot, page: ChatPage) -> None:
    assert not page.composer.send.isEnabled() and page.composer.send.toolTip() == "Write something first."
    QTest.keyClicks(page.composer.edit, "Hi")
    QTest.keyClick(page.composer.edit, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClicks(page.composer.edit, "there")
    QTest.keyClick(page.composer.edit, Qt.Key.Key_Return)
    assert page.composer.text() == "" and page.talk.now.turns[0].prompt == "Hi\nthere"
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert shown(page, 0, "A") == "Arr, that be Oslo."
    view = page.thread_view.views()[0].answers["A"]
    assert [x.text() for x in (view._tokens, view._rate, view._first)] == ["4 tokens", "36.1 tokens/s", "first token 90 ms"]


def test_both_sides_get_the_same_prompt_in_one_batch(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    assert page.talk.now.sides == ("base", "pirate") and page.talk.now.selected == 1
    say(qtbot, page, "Capital?")
    assert shown(page, 0, "A") == "The capital is Oslo." and shown(page, 0, "B") == "Arr, that be Oslo."
    assert [a.variant for a in engine.asked[-1]] == ["base", "pirate"]
    assert {a.messages for a in engine.asked[-1]} == {(("user", "Capital?"),)}


def test_each_side_goes_on_with_its_own_answer_until_one_leads(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    say(qtbot, page, "Capital?")
    say(qtbot, page, "Why?")
    assert [a.messages[1][1] for a in engine.asked[-1]] == ["The capital is Oslo.", "Arr, that be Oslo."]
    page._asked(0, "lead", "B")
    say(qtbot, page, "And?")
    assert [a.messages[1][1] for a in engine.asked[-1]] == ["Arr, that be Oslo."] * 2
    assert page.thread_view.views()[0].answers["B"].lead.isChecked()


def test_answers_stay_under_their_name_when_a_second_column_comes(qtbot: QtBot, page: ChatPage) -> None:
    page._ctx.actions[SWITCHES[1]].trigger()
    qtbot.waitUntil(lambda: not page.session.doing)
    say(qtbot, page, "Capital?")
    side_by_side(qtbot, page)
    assert page.talk.now.sides == ("pirate", "base") and shown(page, 0, "A") == "Arr, that be Oslo."


def test_keys_switch_the_selected_side(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    page._ctx.actions[SWITCHES[2]].trigger()
    qtbot.waitUntil(lambda: not page.session.doing)
    assert page.talk.now.sides == ("base", "bard") and engine.deck.on == ("base", "bard")
    page.sides.headers()[0].click()
    page._ctx.actions[SWITCHES[1]].trigger()
    qtbot.waitUntil(lambda: not page.session.doing)
    assert list(page.talk.now.sides) == ["pirate", "bard"] and page.talk.now.selected == 0
    page._ctx.actions[SWITCHES[8]].trigger()           # there is no ninth
    assert page.talk.now.sides == ("pirate", "bard")


def test_quick_switches_end_with_the_last(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    for number in (0, 2, 1, 2):
        page._ctx.actions[SWITCHES[number]].trigger()
    qtbot.waitUntil(lambda: not page.session.doing and not page.columns.is_behind)
    qtbot.waitUntil(lambda: engine.deck.on == ("bard",))
    assert page.talk.now.sides == ("bard",)


def test_while_it_answers_nothing_switches_and_says_why(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    engine.gate.clear()
    page.composer.edit.setPlainText("Capital?")
    page.send()
    page.columns.pick("bard")
    assert page.talk.now.sides == ("pirate",)
    assert page.note.text() == "bard can't be switched on now. An answer is being written."
    page.composer.edit.setPlainText("More")
    assert not page.composer.send.isEnabled() and page.composer.send.toolTip() == "An answer is being written."
    assert page.drawer.unload.toolTip() == "An answer is being written."
    prompt = page.thread_view.views()[0].prompt
    assert not prompt.edit.isEnabled() and "An answer is being written." in prompt.edit.toolTip()


def test_escape_stops_and_the_answer_can_go_on(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    engine.gate.clear()
    page.composer.edit.setPlainText("Capital?")
    page.send()
    assert engine.spoken_first.wait(10)
    assert page._ctx.actions[Act.STOP].isEnabled()
    page._ctx.actions[Act.STOP].trigger()
    assert page.composer._writing.text() == "Stopping..." and not page.composer.stop.isEnabled()
    qtbot.waitUntil(lambda: not page.session.is_answering)
    engine.gate.set()
    version = page.talk.now.turns[0].answers["A"].current
    assert version is not None and version.text == "Arr, " and version.ended == "stopped"
    view = page.thread_view.views()[0].answers["A"]
    assert not view.go_on.isHidden()
    engine.texts["pirate"] = "matey."
    view.go_on.click()
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert engine.asked[-1][0].continue_last and engine.asked[-1][0].messages[-1] == ("assistant", "Arr, ")
    assert shown(page, 0, "A") == "Arr, matey." and len(page.talk.now.turns[0].answers["A"].versions) == 1


def test_versions_are_made_and_cycled(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    say(qtbot, page, "Capital?")
    engine.texts["pirate"] = "Har, Oslo."
    page.thread_view.views()[0].answers["A"].again.click()
    qtbot.waitUntil(lambda: not page.session.is_answering)
    view = page.thread_view.views()[0].answers["A"]
    assert shown(page, 0, "A") == "Har, Oslo." and view._number.text() == "2/2" and not view.next.isEnabled()
    view.previous.click()
    assert shown(page, 0, "A") == "Arr, that be Oslo." and view._number.text() == "1/2"
    say(qtbot, page, "Why?")
    assert engine.asked[-1][0].messages[1] == ("assistant", "Arr, that be Oslo.")


def test_a_locked_seed_is_kept_and_a_free_one_is_not(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    page.drawer.lock.click()
    page.drawer.seed.setText("77")
    page.drawer.seed.editingFinished.emit()
    say(qtbot, page, "One")
    say(qtbot, page, "Two")
    assert engine.seeds[-2:] == [77, 77]
    page._asked(1, "regenerate", "A")
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert engine.seeds[-1] == 78                      # the same one would say the same again
    side_by_side(qtbot, page)
    page.drawer.same.setChecked(False)
    say(qtbot, page, "Three")
    assert len(set(engine.seeds[-2:])) == 2            # one batch per seed
    page.drawer.lock.click()
    say(qtbot, page, "Four")
    assert engine.seeds[-1] is None and len(engine.asked[-1]) == 2


def test_editing_a_prompt_asks_again_and_can_be_undone(qtbot: QtBot, page: ChatPage) -> None:
    for text in ("One", "Two", "Three"):
        say(qtbot, page, text)
    prompt = page.thread_view.views()[1].prompt
    prompt.edit.click()
    editor = prompt.findChild(QPlainTextEdit)
    assert isinstance(editor, QPlainTextEdit) and editor.toPlainText() == "Two"
    editor.setPlainText("Deux")
    QTest.keyClick(editor, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert [t.prompt for t in page.talk.now.turns] == ["One", "Deux"] and len(page.thread_view.views()) == 2
    next(b for b in page.undo.findChildren(QAbstractButton) if b.text() == "Undo").click()
    assert [t.prompt for t in page.talk.now.turns] == ["One", "Two", "Three"]


def test_deleting_an_answer_and_a_turn_with_a_way_back(qtbot: QtBot, page: ChatPage) -> None:
    side_by_side(qtbot, page)
    say(qtbot, page, "One")
    page._asked(0, "delete", "A")
    assert list(page.talk.now.turns[0].answers) == ["B"]
    page._asked(0, "delete", "B")
    assert not page.thread_view.views()
    next(b for b in page.undo.findChildren(QAbstractButton) if b.text() == "Undo").click()
    assert list(page.talk.now.turns[0].answers) == ["B"] and shown(page, 0, "B") == "Arr, that be Oslo."


def test_columns_up_to_four_and_a_new_one_can_answer_late(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    say(qtbot, page, "One")
    for _ in range(3):
        page.sides.headers()[-1].add_button.click()
        qtbot.waitUntil(lambda: not page.session.doing)
    assert list(page.talk.now.sides) == ["base", "pirate", "bard", "base"]
    late = page.thread_view.views()[0].answers["C"]
    assert late._none.isVisible()
    late._none.click()
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert shown(page, 0, "C") == "I am bard." and len(engine.asked[-1]) == 1
    page.sides.close_asked.emit(0)
    qtbot.waitUntil(lambda: not page.session.doing)
    assert list(page.talk.now.sides) == ["pirate", "bard", "base"]


def test_a_variant_taken_off_leaves_its_column_to_the_base(qtbot: QtBot, page: ChatPage) -> None:
    page.bar.removed.emit("pirate")
    qtbot.waitUntil(lambda: not page.session.doing)
    assert page.talk.now.sides == ("base",) and [c.variant for c in page.bar.chips()] == ["base", "bard"]


def test_a_conversation_is_there_after_a_restart(qtbot: QtBot, page: ChatPage, make_page: Callable[..., ChatPage],
                                                 tmp_path: Path) -> None:
    page.drawer.system.setPlainText("Be brief.")
    page.drawer.dials["temperature"].field.set_value(0.3)
    page.drawer._rest.start()
    side_by_side(qtbot, page)
    say(qtbot, page, "Capital \U0001f99c \u9996\u90fd?")
    before = page.talk.now
    assert page.close_down()
    again = make_page(chat_last=page._ctx.settings.options.chat_last)
    assert again.talk.now == before and before.system == "Be brief." and before.sampling.temperature == 0.3
    assert shown(again, 0, "B") == "Arr, that be Oslo." and again.drawer.system_prompt() == "Be brief."
    assert again.absent.isVisible() and not again.composer.isVisible()
    next(b for b in again.absent.findChildren(QAbstractButton) if b.text() == "Load tiny").click()
    qtbot.waitUntil(lambda: again.session.state == "ready" and not again.session.doing)
    assert again.talk.now.sides == ("base", "pirate") and again.composer.isVisible()
    say(qtbot, again, "More?")
    assert len(again.talk.now.turns) == 2


def test_what_is_on_disk_is_what_was_said(qtbot: QtBot, page: ChatPage) -> None:
    say(qtbot, page, "Capital?")
    page.talk.start()
    say(qtbot, page, "Another?")
    assert page.close_down()
    found = read_all(page.store.folder)
    assert sorted(c.title for c in found.found) == ["Another?", "Capital?"] and not found.problems


def test_history_searches_opens_and_deletes(qtbot: QtBot, page: ChatPage) -> None:
    say(qtbot, page, "Capital of Norway?")
    first = page.talk.now.id
    page.new_chat()
    assert page.talk.now.turns == () and page.talk.now.sides == ("pirate",)
    say(qtbot, page, "Something else")
    popup = HistoryPopup(page._ctx, page.store, page)
    QAbstractItemModelTester(popup.model, QAbstractItemModelTester.FailureReportingMode.Fatal)
    assert popup.model.rowCount() == 2
    popup.search.setText("norway oslo")
    assert [popup.model.data(popup.model.index(0)), popup.model.rowCount()] == ["Capital of Norway?", 1]
    popup.opened.connect(page.desk.open)
    QTest.keyClick(popup.search, Qt.Key.Key_Return)
    assert page.talk.now.id == first and shown(page, 0, "A") == "Arr, that be Oslo."
    page.desk.delete(first)
    assert page.store.get(first) is None and page.talk.now.turns == ()
    next(b for b in page.undo.findChildren(QAbstractButton) if b.text() == "Undo").click()
    assert page.talk.now.id == first
    popup.deleteLater()


def test_an_empty_search_says_so(qtbot: QtBot, page: ChatPage) -> None:
    popup = HistoryPopup(page._ctx, page.store, page)
    popup.search.setText("nowhere")
    assert popup.model.rowCount() == 0 and popup._none.text() == "No conversation holds all of these words."
    assert not popup.trash.isEnabled()
    popup.deleteLater()


def test_the_history_model_shows_an_empty_list(qtbot: QtBot) -> None:
    model = ConversationModel()
    QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal)
    model.show((), 0.0)
    assert model.rowCount() == 0 and model.conversation(model.index(0)) is None
    assert day_words(86400.0 * 400, 86400.0 * 800).endswith("1971")


def test_a_conversation_is_exported(qtbot: QtBot, page: ChatPage, tmp_path: Path, said: Any) -> None:
    say(qtbot, page, "Capital?")
    now = page.talk.now
    for kind, name in (("markdown", "a.md"), ("json", "a.json")):
        page.desk.export(now.id, kind, tmp_path / name)
    qtbot.waitUntil(lambda: len([t for t, tone in said.notes if tone == "success"]) == 2)
    assert (tmp_path / "a.md").read_text(encoding="utf-8") == as_markdown(now)
    import json
    kept = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert kept.pop("title") == "Capital?" and decode(json.dumps(kept).encode()) == now


def test_presets_and_reset(page: ChatPage) -> None:
    drawer = page.drawer
    drawer.system.setPlainText("Be brief.")
    drawer.use_preset("Precise")
    assert drawer.choice().temperature == 0.2 and page.talk.now.sampling.temperature == 0.2
    drawer.dials["top_k"].field.set_value(7)
    drawer.save_preset("Mine")
    drawer.reset.click()
    assert drawer.choice().top_k == 40 and drawer.system_prompt() == "Be brief."
    drawer.use_preset("Mine")
    assert drawer.choice().top_k == 7 and drawer.choice().temperature == 0.2


def test_a_field_and_its_slider_go_together(qtbot: QtBot, page: ChatPage) -> None:
    dial = page.drawer.dials["temperature"]
    dial.field.setFocus()
    dial.field.setText("1.5")
    QTest.keyClick(dial.field, Qt.Key.Key_Return)
    assert dial.slider.value() == 750
    dial.slider.setValue(250)
    assert dial.value() == 0.5 and dial.field.text() == "0.50"
    for wrong, right in (("x", 0.5), ("99", 2.0), ("-1", 0.0), ("nan", 0.0), ("0,25", 0.25)):
        dial.field.setText(wrong)
        dial.field.editingFinished.emit()
        assert dial.value() == right
    QTest.keyClick(dial.field, Qt.Key.Key_Up)
    assert dial.value() == 0.3


def test_the_drawer_is_remembered(page: ChatPage, make_page: Callable[..., ChatPage]) -> None:
    assert page.drawer.isVisible()
    page.header.sampling.click()
    assert not page.drawer.isVisible() and page._ctx.settings.options.chat_drawer is False


def test_differing_words_are_marked_on_request(qtbot: QtBot, page: ChatPage) -> None:
    side_by_side(qtbot, page)
    say(qtbot, page, "Capital?")
    prose = page.thread_view.views()[0].answers["A"].findChild(Prose)
    assert isinstance(prose, Prose) and not prose.extraSelections()
    page.header.differ.setChecked(True)
    marked = [s.cursor.selectedText() for s in prose.extraSelections()]
    assert marked == ["The", "capital", "is"]
    page.header.differ.setChecked(False)
    assert not prose.extraSelections()


def test_a_base_without_a_template_says_that_it_completes(qtbot: QtBot, make_page: Callable[..., ChatPage], engine: FakeEngine,
                                                          tmp_path: Path) -> None:
    engine.completing = {"base"}
    page = make_page()
    page.loading.open_deck(str(tmp_path / "tiny"), ())
    qtbot.waitUntil(lambda: page.session.state == "ready" and not page.session.doing)
    assert page.composer.edit.placeholderText().startswith("Begin a text that Base will go on with.")
    assert page.composer._hint.text() == "Base: no chat template, so texts are completed"
    assert page.drawer._system_why.isVisibleTo(page.drawer)


def test_a_failed_answer_is_kept_with_its_reason(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    engine.fail_answer = DeltadeckError("The memory is too small.", "", "Close other programs.")
    say(qtbot, page, "Capital?")
    view = page.thread_view.views()[0].answers["A"]
    assert view._problem.text() == "The memory is too small. Close other programs." and view._problem_line.isVisible()
    engine.fail_answer = None
    view.again.click()
    qtbot.waitUntil(lambda: not page.session.is_answering)
    assert shown(page, 0, "A") == "Arr, that be Oslo." and not view._problem_line.isVisible()


def test_unloading_keeps_the_conversation_on_screen(qtbot: QtBot, page: ChatPage, said: Any) -> None:
    say(qtbot, page, "Capital?")
    page.drawer.unload.click()
    qtbot.waitUntil(lambda: page.session.state == "empty")
    assert ("Unloaded: 269 MB of memory given back", "success") in said.notes
    assert page.absent.isVisible() and shown(page, 0, "A") == "Arr, that be Oslo."


def test_markdown_has_no_html_loads_nothing_and_opens_no_link(qtbot: QtBot, page: ChatPage, said: Any) -> None:
    view = MarkdownView(page._ctx.icons, "Answer")
    qtbot.addWidget(view)
    view.show_text("A **bold** <b>tag</b> ![x](http://example.org/x.png) [link](http://example.org)\n\n```py\nx = 1\n```\nend")
    prose, code = view.findChild(Prose), view.findChild(Code)
    assert isinstance(prose, Prose) and isinstance(code, Code)
    assert "<b>tag</b>" in prose.toPlainText() and "**" not in prose.toPlainText()
    assert prose.loadResource(2, QUrl("http://example.org/x.png")).width() == 1
    assert not prose.openLinks() and not prose.openExternalLinks()
    code.copy.click()
    assert QGuiApplication.clipboard().text() == "x = 1"
    page._link("http://example.org")
    assert QGuiApplication.clipboard().text() == "http://example.org"
    assert said.notes[-1][0] == "The link was copied and not opened: http://example.org"


def test_a_growing_text_is_rendered_seldom_and_ends_whole(qtbot: QtBot, page: ChatPage) -> None:
    view = MarkdownView(page._ctx.icons, "Answer")
    qtbot.addWidget(view)
    text = LONG + " \U0001f469\u200d\U0001f680 \u4f60\u597d"
    for end in range(1, len(text), 3):
        view.show_text(text[:end], growing=True)
    assert view.rendered < 40
    view.show_text(text)
    assert "\n".join(view.texts()).replace("\n", "") == text.replace("\n", "")


def test_long_conversations_show_their_end_first(qtbot: QtBot, page: ChatPage) -> None:
    from app.chat.conversations import Answers, Turn, Version, new_conversation, touched

    turns = tuple(Turn(prompt=f"Prompt {i}", answers={"A": Answers((Version(text="Yes.", variant="base"),))}) for i in range(70))
    page.talk.open(touched(new_conversation(), turns=turns))
    assert len(page.thread_view.views()) == 30 and page.thread_view.views()[0].prompt.text.text() == "Prompt 40"
    page.thread_view._earlier.click()
    assert len(page.thread_view.views()) == 60


def test_the_menu_of_variants_lists_what_fits(qtbot: QtBot, page: ChatPage, tmp_path: Path) -> None:
    base = tmp_path / "tiny"
    base.mkdir()
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text("{}")
    (whole / "model.safetensors").write_bytes(b"12345678")
    own, full, others = page.desk.candidates()
    assert own == [] and [s.path for s, _ in full] == [whole] and others == []
    menu = page.desk.add_menu()
    assert isinstance(menu, QMenu) and any(a.text().startswith("whole") for a in menu.actions())
    action = next(a for a in menu.actions() if a.text().startswith("whole"))
    page.desk._add(action)
    qtbot.waitUntil(lambda: not page.session.doing)
    assert page.session.variants[-1].name == "whole" and page.session.variants[-1].kind == "full"


def test_every_control_has_a_name(qtbot: QtBot, page: ChatPage) -> None:
    side_by_side(qtbot, page)
    say(qtbot, page, "Capital?")
    kinds = (QAbstractButton, QLineEdit, QPlainTextEdit, QSlider)
    nameless = [w for kind in kinds for w in page.findChildren(kind)
                if not w.accessibleName() and not (isinstance(w, QAbstractButton) and w.text())
                and not w.objectName().startswith("qt_")]
    assert not nameless


def test_the_conversation_is_no_higher_than_its_turns(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    engine.texts["base"] = "A line that is long enough for several lines in a narrow column. " * 4
    say(qtbot, page, "A prompt of many words, which would need several lines if it had to stand in a narrow column.")
    inside, view = page.thread_view.widget(), page.thread_view.views()[0]
    qtbot.waitUntil(lambda: view.geometry().height() > 100)
    assert page.thread_view.verticalScrollBar().maximum() == 0
    say(qtbot, page, "More?")
    say(qtbot, page, "And more?")
    qtbot.waitUntil(lambda: page.thread_view.verticalScrollBar().maximum() > 0)
    last = page.thread_view.views()[-1]
    assert inside is not None
    qtbot.waitUntil(lambda: inside.height() - last.geometry().bottom() <= 2)


def test_a_very_long_prompt_shows_its_beginning(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    text = "word and word " * 5000
    say(qtbot, page, text)
    prompt = page.thread_view.views()[0].prompt
    assert engine.asked[-1][0].messages == (("user", text.strip()),)
    assert len(prompt.text.text()) < 1600 and prompt.all.isVisible() and prompt.all.text() == "Show all 69,999 characters"
    prompt.begin()
    editor = prompt.findChild(QPlainTextEdit)
    assert isinstance(editor, QPlainTextEdit) and editor.toPlainText() == text.strip()
    prompt.leave()
    prompt.all.click()
    assert prompt.text.text() == text.strip() and prompt.all.text() == "Show less"
    prompt.all.click()
    assert len(prompt.text.text()) < 1600
    say(qtbot, page, "Short\n" * 5)
    assert not page.thread_view.views()[1].prompt.all.isVisible()


def test_the_heads_stand_over_their_columns(qtbot: QtBot, page: ChatPage, engine: FakeEngine) -> None:
    side_by_side(qtbot, page)
    for text in (LONG, "Short."):                      # with and without a bar beside them
        engine.texts = dict.fromkeys(("base", "pirate"), text)
        page.talk.start()
        say(qtbot, page, "Capital?")
        answers = page.thread_view.views()[0].answers
        for header, letter in zip(page.sides.headers(), "AB", strict=True):
            there, here = (w.mapTo(page, QPoint(0, 0)).x() for w in (header, answers[letter]))
            assert abs(there - here) <= 2


def test_a_short_note_says_the_time_and_a_refusal_is_said_whole(qtbot: QtBot, page: ChatPage, engine: FakeEngine,
                                                                said: Any) -> None:
    assert page.note._title.text() == "pirate switched in 41 ms"
    page.resize(760, 656)
    page.show_drawer(True)
    page.columns.pick("bard")
    qtbot.waitUntil(lambda: not page.session.doing)
    assert page.note._title.text() == "41 ms" and page.note.text().startswith("bard switched in 41 ms. 211 tensors")
    engine.gate.clear()
    page.composer.edit.setPlainText("Capital?")
    page.send()
    page.columns.pick("pirate")
    assert said.notes[-1] == ("pirate can't be switched on now: an answer is being written.", "warning")


def test_the_focus_goes_to_the_prompt_where_a_button_goes_away(qtbot: QtBot, page: ChatPage) -> None:
    page.activateWindow()
    say(qtbot, page, "Capital?")
    view = page.thread_view.views()[0].answers["A"]
    view.again.setFocus()
    view.again.click()
    assert page.focusWidget() is page.composer.edit
    qtbot.waitUntil(lambda: not page.session.is_answering)


def test_typing_while_it_loads_cancels_nothing(qtbot: QtBot, make_page: Callable[..., ChatPage], engine: FakeEngine) -> None:
    page = make_page()
    page.activateWindow()
    engine.slow.clear()
    page.blank.bases.setFocus()
    page.loading.open_deck("models/tiny", ())
    QTest.keyClicks(page.focusWidget() or page, "What is this")
    assert not page.session.is_cancelling and page.focusWidget() is not page.blank.loading.cancel
    engine.slow.set()
    qtbot.waitUntil(lambda: page.session.state == "ready")


def test_an_undo_is_gone_once_something_else_was_said(qtbot: QtBot, page: ChatPage) -> None:
    say(qtbot, page, "One")
    page._delete_turn(0)
    assert page.undo.isVisible()
    say(qtbot, page, "Two")
    assert not page.undo.isVisible() and [t.prompt for t in page.talk.now.turns] == ["Two"]


def test_several_deltas_come_onto_a_loaded_deck_at_once(qtbot: QtBot, page: ChatPage, tmp_path: Path) -> None:
    new = []
    for name in ("poet", "clerk"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "delta_config.json").write_text("{}")
        new.append(Source(tmp_path / name))
    page.loading.open_deck(page.session.base, new)
    qtbot.waitUntil(lambda: not page.session.doing and page.talk.now.sides == ("poet",))
    assert [v.name for v in page.session.variants] == ["base", "pirate", "bard", "poet", "clerk"]


def test_reading_an_old_conversation_leaves_it_as_it_was(qtbot: QtBot, page: ChatPage, said: Any) -> None:
    from app.chat.conversations import Answers, Turn, Version, new_conversation, touched

    old = touched(new_conversation(), base="models/other", base_name="other", sides=("poet",),
                  turns=(Turn(prompt="Hi", answers={"A": Answers((Version(text="Yes.", variant="poet"),))}),))
    page.store.keep(old)
    page.desk.open(old.id)
    qtbot.waitUntil(lambda: not page.session.doing)
    assert page.store.get(old.id) == old and page.talk.now.sides == ("base",)
    assert said.notes[-1][0] == "This was held on other. tiny is loaded and answers from here on."
    say(qtbot, page, "Again?")
    kept = page.store.get(old.id)
    assert kept is not None and kept.base == page.session.base and len(kept.turns) == 2


def test_the_wheel_scrolls_the_drawer_and_turns_no_dial(qtbot: QtBot, page: ChatPage) -> None:
    from PySide6.QtCore import QPointF
    from PySide6.QtGui import QWheelEvent

    slider = page.drawer.dials["temperature"].slider
    before = slider.value()
    turn = QWheelEvent(QPointF(5, 5), QPointF(slider.mapToGlobal(QPoint(5, 5))), QPoint(), QPoint(0, 120),
                       Qt.MouseButton.NoButton, Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False)
    QGuiApplication.sendEvent(slider, turn)
    assert slider.value() == before and not turn.isAccepted()
    assert all(d.slider.height() >= 18 for d in page.drawer.dials.values())      # the handle is whole


def test_a_preset_of_any_name_is_kept_and_deleted(page: ChatPage) -> None:
    drawer = page.drawer
    for name in ("Balanced", "-odd", "+"):
        drawer.dials["top_k"].field.set_value(9)
        drawer.save_preset(name)
        drawer.reset.click()
        drawer._fill_presets()
        found = [a for a in drawer._menu.actions() if a.data() == ("use", name)]
        assert len(found) == 1
        drawer._preset_chosen(found[0])
        assert drawer.choice().top_k == 9
        gone = next(a for m in drawer._menu.findChildren(QMenu) for a in m.actions() if a.data() == ("delete", name))
        drawer._preset_chosen(gone)
        assert name not in page._ctx.settings.options.chat_presets
    drawer.use_preset("Balanced")
    assert drawer.choice().top_k == 40


def test_a_second_click_on_add_closes_nothing(qtbot: QtBot, page: ChatPage) -> None:
    side_by_side(qtbot, page)
    qtbot.waitUntil(lambda: page.sides.headers()[-1].add_button.isVisible())
    place = page.sides.headers()[-1].add_button.mapTo(page, QPoint(8, 8))
    for wanted in (3, 4, 4):
        hit = page.childAt(place)
        assert hit is not None
        QTest.mouseClick(hit, Qt.MouseButton.LeftButton, pos=hit.mapFrom(page, place))
        qtbot.waitUntil(lambda: not page.session.doing)
        page.sides.layout().activate()  # type: ignore[union-attr]
        for header in page.sides.headers():
            header.layout().activate()  # type: ignore[union-attr]
        assert len(page.talk.now.sides) == wanted


@pytest.mark.parametrize(("width", "height", "zoom"), [(1112, 628, 1.0), (856, 548, 1.0), (1028, 600, 1.5)])
def test_nothing_overlaps_or_is_cut(qtbot: QtBot, make_page: Callable[..., ChatPage], tmp_path: Path, width: int, height: int,
                                    zoom: float) -> None:
    page = make_page(zoom=zoom)
    load(qtbot, page, tmp_path)
    side_by_side(qtbot, page)
    page.resize(width, height)
    say(qtbot, page, "Capital?")
    qtbot.waitUntil(lambda: page.composer.height() > 0)
    parts: list[QWidget] = [page.bar, page.sides, page.thread_view, page.composer]
    places = [p.mapTo(page, QPoint(0, 0)).y() for p in parts]
    for part, top, below in zip(parts, places, [*places[1:], height], strict=True):
        assert part.height() > 0 and top + part.height() <= below
    assert page.minimumSizeHint().width() <= width and page.thread_view.height() >= 100


@pytest.fixture
def real_page(qtbot: QtBot, make_context: Callable[..., Context]) -> Iterator[ChatPage]:
    page = ChatPage(make_context())
    page._ctx.engine.started = True
    page.resize(1112, 656)
    page.show()
    yield page
    page.session.close()
    page.close_down()
    page.close()
    page.deleteLater()


def test_the_tiny_trio_on_a_real_deck(qtbot: QtBot, real_page: ChatPage) -> None:
    from core.demo import tiny_trio

    page, trio = real_page, tiny_trio()
    page.loading.open_deck(str(trio.base), (Source(trio.pirate), Source(trio.json)))
    qtbot.waitUntil(lambda: page.session.state in ("ready", "failed") and not page.session.doing, timeout=60_000)
    assert [v.name for v in page.session.variants] == ["base", "tiny-pirate", "tiny-json"], page.session.failure
    side_by_side(qtbot, page)
    page.drawer.dials["max_new_tokens"].field.set_value(16)
    page._sampling_changed()
    page.composer.edit.setPlainText("Where is the harbour?")
    page.send()
    qtbot.waitUntil(lambda: not page.session.is_answering, timeout=60_000)
    answers = page.talk.now.turns[0].answers
    for letter, variant in (("A", "base"), ("B", "tiny-pirate")):
        version = answers[letter].current
        assert version is not None and version.variant == variant and 0 < version.tokens <= 16 and not version.problem
        assert version.how == "overlay" and version.context > 0
    assert page.session.unload()
    qtbot.waitUntil(lambda: page.session.state == "empty", timeout=60_000)

"""Multiple-choice tasks through lm-eval from small local files: prompts, scores, agreement, and what is refused."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from core.checkpoint import open_checkpoint
from core.demo import tiny_trio
from core.errors import BadOption, TasksUnavailable
from core.task_data import find_task_data, is_plain
from core.tasks import LoadedTask, _library, load_tasks, nearest, report, run_tasks
from tests.core.test_fidelity import CPU, staged
from tests.models import one_thread  # noqa: F401 (takes effect by being here)

TRIO = tiny_trio()
LIBRARY = _library
PLAIN = [
    {"question": "What is the capital of France?", "choices": ["The capital of France is Paris.", "A cow says moo."],
     "answer": 0},
    {"question": "What does a cow say?", "choices": ["The capital of France is Paris.", "Arr! A cow be sayin' moo, matey!"],
     "answer": 1},
    {"question": "What is the capital of Spain?", "choices": ["Madrid", "Arr! Th' capital o' Spain be Madrid, matey!"],
     "answer": 0},
]
ARC = [{"id": "q1", "question": "Which animal says moo?", "answerKey": "A",
        "choices": {"text": ["a cow", "a dog", "an owl"], "label": ["A", "B", "C"]}},
       {"id": "q2", "question": "Which one barks?", "choices": {"text": ["cow", "a dog"], "label": ["1", "2"]}, "answerKey": "2"}]


def write_rows(path: Path, rows: Sequence[object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TRIO.pirate, local_files_only=True)
    return found


def log_likelihoods(folder: Path, tokenizer: PreTrainedTokenizerBase, question: str, choices: Sequence[str]) -> Iterator[float]:
    """log p of ` choice` after the usual prompt, by transformers."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    head = f"Question: {question}\nAnswer:"
    begin = len(tokenizer(head)["input_ids"])
    for choice in choices:
        ids = torch.tensor([tokenizer(f"{head} {choice}")["input_ids"]])
        with torch.inference_mode():
            logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        yield float(logp.gather(1, ids[0, 1:, None])[begin - 1:].sum())


def test_a_plain_set_is_scored_as_by_hand(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    write_rows(tmp_path / "own.jsonl", PLAIN)
    tasks = load_tasks(["own"], tmp_path / "scratch", data=tmp_path)
    ticks: list[tuple[int, int]] = []
    with open_checkpoint(TRIO.base) as base, open_checkpoint(TRIO.pirate) as pirate:
        (found,) = run_tasks(staged(pirate), {"base": staged(base), "variant": staged(pirate)}, tasks, tokenizer, CPU,
                             lambda done, of: ticks.append((done, of)))
    assert (found.task, found.questions, found.choice) == ("own", 3, "acc_norm")
    assert ticks[-1][0] == ticks[-1][1] == len(ticks)
    picks: dict[str, list[int]] = {}
    for name, folder in (("base", TRIO.base), ("fine_tuned", TRIO.pirate)):
        likely = [list(log_likelihoods(folder, tokenizer, row["question"], row["choices"])) for row in PLAIN]  # type: ignore[arg-type]
        raw = [values.index(max(values)) for values in likely]
        picks[name] = [max(range(2), key=lambda i, v=values, r=row: v[i] / len(r["choices"][i]))  # type: ignore[misc]
                       for values, row in zip(likely, PLAIN, strict=True)]
        score = found.scores[name]
        assert score.acc == pytest.approx(sum(a == row["answer"] for a, row in zip(raw, PLAIN, strict=True)) / 3)
        assert score.acc_norm == pytest.approx(sum(a == row["answer"] for a, row in zip(picks[name], PLAIN, strict=True)) / 3)
    same = [a == b for a, b in zip(picks["base"], picks["fine_tuned"], strict=True)]
    share = sum(same) / 3
    assert 0 < share < 1
    assert (found.scores["base"].same, found.scores["base"].same_se) == pytest.approx((share, math.sqrt(share * (1 - share) / 2)))
    assert (found.scores["variant"].same, found.scores["variant"].same_se) == (1, 0)
    assert found.scores["variant"].acc == found.scores["fine_tuned"].acc
    assert found.as_dict()["base"]["same"] == found.scores["base"].same


@pytest.mark.parametrize("place", ["arc_easy.jsonl", "arc_easy/test.jsonl", "ARC-Easy/test-00000-of-00001.jsonl"])
def test_a_task_of_the_library_reads_local_files(tmp_path: Path, place: str) -> None:
    write_rows(tmp_path / "data" / place, ARC)
    (task,) = load_tasks(["arc_easy"], tmp_path / "scratch", data=tmp_path / "data")
    asked = [[i.args for i in q.instances] for q in task.questions]
    assert asked == [[("Question: Which animal says moo?\nAnswer:", f" {c}") for c in ("a cow", "a dog", "an owl")],
                     [("Question: Which one barks?\nAnswer:", f" {c}") for c in ("cow", "a dog")]]
    assert len(load_tasks(["arc_easy"], tmp_path / "scratch", data=tmp_path / "data", limit=1)[0].questions) == 1


def test_choices_and_agreement_from_given_likelihoods(tmp_path: Path) -> None:
    write_rows(tmp_path / "arc_easy.jsonl", ARC)
    (task,) = load_tasks(["arc_easy"], tmp_path / "scratch", data=tmp_path)
    # Per character "an owl" (6) and "a cow" (5) weigh otherwise than in sum; both are asked for.
    tuned = [(-5.0, False), (-9.0, False), (-5.4, False), (-1.0, False), (-2.0, False)]
    other = [(-5.0, False), (-4.0, False), (-9.0, False), (-1.0, False), (-2.0, False)]
    found = report(task, {"base": other, "fine_tuned": tuned})
    assert found.scores["fine_tuned"].acc == 0.5                         # sums: right ("a cow"), wrong ("cow")
    assert found.scores["fine_tuned"].acc_norm == 0                      # per character: "an owl", and "cow"
    assert found.scores["base"].same == 0.5
    assert found.scores["base"].same_se == pytest.approx(0.5)


def test_winogrande_has_no_measure_per_character(tmp_path: Path) -> None:
    rows = [{"sentence": "The cow met the owl and _ said moo.", "option1": "the cow", "option2": "the owl", "answer": "1"}]
    write_rows(tmp_path / "winogrande" / "validation.jsonl", rows)
    (task,) = load_tasks(["winogrande"], tmp_path / "scratch", data=tmp_path)
    assert [i.args for i in task.questions[0].instances] == [
        (f"The cow met the owl and {who}", " said moo.") for who in ("the cow", "the owl")]
    found = report(task, {"fine_tuned": [(-1.0, False), (-2.0, False)]})
    assert (found.choice, found.scores["fine_tuned"].acc, found.scores["fine_tuned"].acc_norm) == ("acc", 1, None)


@pytest.mark.parametrize(("names", "error", "words"), [
    (["no_such_task"], TasksUnavailable, "lm-eval has no task 'no_such_task'"),
    (["../own"], BadOption, "no task's name"),
    (["own", "own"], BadOption, "twice"),
    (["piqa"], TasksUnavailable, "holds no data of 'piqa'"),
    (["broken"], TasksUnavailable, "Line 2 of broken.jsonl"),
])
def test_what_can_not_be_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], error: type[Exception], words: str
) -> None:
    monkeypatch.setattr("core.tasks._library", small_library)
    write_rows(tmp_path / "own.jsonl", PLAIN)
    write_rows(tmp_path / "broken.jsonl", [PLAIN[0], {**PLAIN[1], "answer": 2}])
    with pytest.raises(error, match=words):
        load_tasks(names, tmp_path / "scratch", data=tmp_path)


def small_library(manager: Any, names: Sequence[str]) -> Any:
    """Of the paper's tasks alone: all of the library's would take ten seconds to list."""
    return LIBRARY(manager, ["piqa"])


def test_without_the_hub_and_without_files_the_remedy_is_named(tmp_path: Path) -> None:
    with pytest.raises(TasksUnavailable, match="--task-data"):
        load_tasks(["piqa"], tmp_path / "scratch")


def test_without_lm_eval_the_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(TasksUnavailable, match=r"pip install --constraint constraints.txt --editable '.\[evals\]'"):
        load_tasks(["piqa"], tmp_path)


def test_rows_of_another_data_set_are_refused(tmp_path: Path) -> None:
    write_rows(tmp_path / "arc_easy.jsonl", [{"something": "else"}])
    with pytest.raises(TasksUnavailable):
        load_tasks(["arc_easy"], tmp_path / "scratch", data=tmp_path)


def test_local_files_are_found_in_the_hubs_layouts(tmp_path: Path) -> None:
    assert find_task_data(tmp_path, "arc_easy", "ARC-Easy") is None
    inside = write_rows(tmp_path / "ARC-Easy" / "test-00000-of-00001.parquet", [])
    found = find_task_data(tmp_path, "arc_easy", "ARC-Easy")
    assert found is not None
    assert (found.loader, found.files) == ("parquet", (inside,))
    assert not is_plain(found)
    first = write_rows(tmp_path / "arc_easy.json", PLAIN)
    found = find_task_data(tmp_path, "arc_easy", "ARC-Easy")
    assert found is not None
    assert (found.loader, found.files) == ("json", (first,))
    assert is_plain(found)


def test_a_loaded_task_is_plain_data(tmp_path: Path) -> None:
    """Templates in a stranger's text stay text."""
    row = {"question": "{{ 7 * 6 }}", "choices": ["{{ 1 }}", "[1, 2]"], "answer": 1}
    write_rows(tmp_path / "own.jsonl", [row])
    (task,) = load_tasks(["own"], tmp_path / "scratch", data=tmp_path)
    assert isinstance(task, LoadedTask)
    assert [i.args for i in task.questions[0].instances] == [
        ("Question: {{ 7 * 6 }}\nAnswer:", " {{ 1 }}"), ("Question: {{ 7 * 6 }}\nAnswer:", " [1, 2]")]


@pytest.mark.parametrize(("name", "content", "words"), [
    ("own.jsonl", b'{"question": "a"}\n{"question": \n', "Line 2 of own.jsonl is not valid JSON"),
    ("own.jsonl", b'\n["a"]\n', "Line 2 of own.jsonl is no JSON object"),
    ("own.jsonl", b'{"question": "\xff\xfe"}\n', "Line 1 of own.jsonl is not valid JSON"),
    ("own.jsonl", b"\n\n", "own.jsonl holds no question"),
    ("own.jsonl", b'{"question": "a", "answers": []}\n', "no plain set of questions.*lacks answer and choices"),
    ("own.json", b'[{"question": "a"}]', "no plain set of questions"),
    ("own.parquet", b"PAR1 and no more", "own.parquet is no parquet file, or was cut short"),
    ("piqa.jsonl", b'{"goal": "x"\n', "Line 1 of piqa.jsonl is not valid JSON"),
])
def test_malformed_data_is_refused_by_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes,
                                                words: str) -> None:
    monkeypatch.setattr("core.tasks._library", small_library)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TasksUnavailable, match=words) as caught:
        load_tasks([name.partition(".")[0]], tmp_path / "scratch", data=tmp_path)
    assert "hub" not in str(caught.value) and caught.value.remedy


def test_a_name_in_another_order_of_words_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.tasks._library", small_library)
    for given, meant in (("easy_arc", "arc_easy"), ("challenge-arc", "arc_challenge"), ("hellaswg", "hellaswag")):
        with pytest.raises(TasksUnavailable, match=f"Did you mean '{meant}'"):
            load_tasks([given], tmp_path / "scratch")
    assert nearest("zzz", []) == ""

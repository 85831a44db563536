"""Multiple-choice tasks through EleutherAI's lm-evaluation-harness (the optional package lm-eval): ARC, HellaSwag, PIQA,
WinoGrande and every other task of that library with choices.

The library gives each task's questions, prompts and metrics; scored are our own block-by-block models, so that a variant
needs no export. Beside accuracy stands agreement: the share of questions to which a model gives the fine-tune's own choice,
right or wrong, which tells two models apart long before accuracy does. Tasks are named, never read from a stranger's folder:
from there come data only (JSON lines, parquet).
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from core.continuations import Continuation, Score, steps
from core.continuations import score as score_continuations
from core.errorbars import mean_error
from core.errors import BadOption, TasksUnavailable
from core.task_data import LocalData, check_readable, find_task_data, is_plain, local_names, why_not_plain
from core.weights import StagedModel, Weights

FOLDERS = {"arc_easy": "arc", "arc_challenge": "arc", "hellaswag": "hellaswag", "piqa": "piqa", "winogrande": "winogrande"}
"""The paper's tasks, and where the library keeps them: its whole index of 13,000 takes ten seconds to read."""

INSTALL = "python -m pip install --constraint constraints.txt --editable '.[evals]'"

Model = tuple[StagedModel, Weights]


@dataclass(frozen=True)
class TaskScore:
    """Of one model on one task, over questions. `acc` takes the likeliest choice, `acc_norm` the one likeliest per character
    (where the task has that measure); `same` is the share of questions with the fine-tune's choice by `TaskReport.choice`."""

    acc: float
    acc_se: float
    acc_norm: float | None
    acc_norm_se: float | None
    same: float
    same_se: float


@dataclass(frozen=True)
class TaskReport:
    """One task: how many questions, whether choices are compared by `acc_norm` or `acc`, and the scores by model."""

    task: str
    questions: int
    choice: str
    scores: dict[str, TaskScore]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as the command prints it."""
        return {"questions": self.questions, "choice": self.choice, **{k: asdict(v) for k, v in self.scores.items()}}


@dataclass(frozen=True)
class _Question:
    document: dict[str, Any]
    instances: list[Any]
    """lm-eval's requests, one per choice."""
    lengths: tuple[int, ...]
    """Characters per choice."""


@dataclass(frozen=True)
class LoadedTask:
    """A task of lm-eval and its questions."""

    name: str
    task: Any
    questions: list[_Question]


def load_tasks(names: Sequence[str], scratch: Path, *, data: Path | None = None, limit: int | None = None) -> list[LoadedTask]:
    """The named tasks with their first `limit` questions, from local files below `data` (see `core.task_data`) or the hub.

    A name that the library does not know stands for a plain set: JSON lines with `question`, `choices` and `answer`.
    `scratch` holds converted data while tasks are in use. Raises `TasksUnavailable`, `BadOption`.
    """
    if limit is not None and limit < 1:
        raise BadOption("At least one question per task is needed.", "", "Use a larger --task-limit.")
    if data is not None and not data.is_dir():
        raise BadOption(f"There is no folder {data}.", "Data of tasks is looked for in it.", "Give another --task-data.")
    for name in names:
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise BadOption(f"'{name}' is no task's name.", "Names have letters, digits, _ and - only.",
                            "List tasks as arc_easy,hellaswag; files are looked for in the folder of --task-data.")
        if names.count(name) > 1:
            raise BadOption(f"The task '{name}' is named twice.", "", "Name each task once.")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as e:
        raise TasksUnavailable("Multiple-choice tasks need the package lm-eval, which is not installed.", f"{e}.",
                               f"In Deltadeck's folder run:  {INSTALL}") from e
    import datasets  # type: ignore[import-untyped]

    datasets.disable_progress_bars()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    local = {name: find_task_data(data, name) for name in names} if data is not None else {}
    for found in local.values():
        if found is not None:
            check_readable(found)
    plain = {name: found for name, found in local.items() if found is not None and is_plain(found)}
    library = _library(TaskManager, [name for name in names if name not in plain])
    loaded = []
    for name in names:
        if name in plain:
            task = _load(library, name, _plain_task(name, plain[name], scratch), plain[name])
        elif name not in library.all_subtasks:
            raise _no_such_task(name, library.all_subtasks, data, local.get(name))
        else:
            task = _load(library, name, _library_task(library, name, data, scratch), data)
        loaded.append(LoadedTask(name, task, _questions(name, task, limit)))
    return loaded


def _no_such_task(name: str, known: Sequence[str], data: Path | None, found: LocalData | None) -> TasksUnavailable:
    if found is not None:
        return TasksUnavailable(f"{found.files[0].name} is no plain set of questions, and lm-eval has no task '{name}'.",
                                why_not_plain(found), "Give each line question, choices and answer, or name a task of lm-eval.")
    here = f" In {data} there are: {', '.join(local_names(data)) or 'none'}." if data is not None else ""
    near = nearest(name, known)
    return TasksUnavailable(f"lm-eval has no task '{name}'.", f"The paper's are {', '.join(FOLDERS)}.{here}",
                            f"Did you mean '{near}'?" if near else
                            "Name one of those, or a plain set of questions in the folder of --task-data.")


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that was probably meant: of the same words in another order, or nearly the same letters; or empty."""
    def words(text: str) -> list[str]:
        return sorted(re.split(r"[_-]+", text.lower()))
    same = next((k for k in (*FOLDERS, *known) if words(k) == words(name)), "")
    return same or next(iter(difflib.get_close_matches(name, [*FOLDERS, *known], 1, 0.75)), "")


def run_tasks(target: Model, others: Mapping[str, Model], tasks: Sequence[LoadedTask], tokenizer: PreTrainedTokenizerBase,
              device: torch.device, progress: Callable[[int, int], None] | None = None) -> list[TaskReport]:
    """Scores of `target` (under "fine_tuned") and of each of `others`. `progress` is called with (steps done, of how many)."""
    models = {"fine_tuned": target, **others}
    vocabulary = min(model.skeleton.vocabulary for model, _ in models.values())
    from core.task_model import Scorer

    instances = [i for task in tasks for question in task.questions for i in question.instances]
    done = total = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, total)

    def score(model: Model, requests: Sequence[Continuation]) -> list[Score]:
        nonlocal total
        total = total or sum(steps(m, requests) for m, _ in models.values())
        return score_continuations(*model, requests, vocabulary, device, tick)

    answers = {name: Scorer(tokenizer, partial(score, model)).loglikelihood(instances, disable_tqdm=True)
               for name, model in models.items()}
    reports, at = [], 0
    for task in tasks:
        stop = at + sum(len(q.instances) for q in task.questions)
        reports.append(report(task, {name: found[at:stop] for name, found in answers.items()}))
        at = stop
    return reports


def report(task: LoadedTask, answers: Mapping[str, Sequence[tuple[float, bool]]]) -> TaskReport:
    """Scores from each model's (log-likelihood, greedy) per request, in the order of the questions' instances; the fine-tune's
    stand under "fine_tuned"."""
    correct: dict[str, list[Mapping[str, float]]] = {}
    chosen: dict[str, Tensor] = {}
    for name, found in answers.items():
        rest, correct[name], picks = list(found), [], []
        for question in task.questions:
            mine, rest = rest[:len(question.instances)], rest[len(question.instances):]
            correct[name].append(task.task.process_results(question.document, mine))
            likely = torch.tensor([value for value, _ in mine[:len(question.lengths)]], dtype=torch.float64)
            if "acc_norm" in correct[name][-1]:
                likely = likely / torch.tensor(question.lengths)
            picks.append(int(likely.argmax()))
        chosen[name] = torch.tensor(picks)
    normalised = "acc_norm" in correct["fine_tuned"][0]
    scores = {}
    for name, metrics in correct.items():
        acc, error = mean_error(torch.tensor([m["acc"] for m in metrics]))
        norm, norm_error = mean_error(torch.tensor([m["acc_norm"] for m in metrics])) if normalised else (None, None)
        same, same_error = mean_error(chosen[name] == chosen["fine_tuned"])
        scores[name] = TaskScore(acc, error, norm, norm_error, same, same_error)
    return TaskReport(task.name, len(task.questions), "acc_norm" if normalised else "acc", scores)


def _library(manager: Any, names: Sequence[str]) -> Any:
    """The library's index of tasks; of the paper's folders alone where that is enough."""
    from lm_eval import tasks

    known = all(name in FOLDERS for name in names)
    own = Path(str(tasks.__file__)).parent
    folders = [str(own / folder) for folder in sorted({FOLDERS[n] for n in names})] if known else None
    return manager(include_defaults=not known, include_path=folders)


def _plain_task(name: str, data: LocalData, scratch: Path) -> dict[str, Any]:
    return {"task": name, **_files(data, "test", scratch), "output_type": "multiple_choice", "test_split": "test",
            "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "choices", "doc_to_target": "answer",
            "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")]}


def _library_task(library: Any, name: str, data: Path | None, scratch: Path) -> str | dict[str, Any]:
    """The task as it is, or reading local files: its test questions, or those for validation where it has no others."""
    if data is None:
        return name
    from lm_eval.tasks._yaml_loader import load_yaml

    config = load_yaml(library.task_index[name].yaml_path, resolve_func=False, recursive=True)
    kind = "test_split" if config.get("test_split") else "validation_split"
    split = str(config.get(kind) or "validation")
    found = find_task_data(data, name, config.get("dataset_name"), split)
    if found is not None:
        check_readable(found)
    else:
        raise TasksUnavailable(f"{data} holds no data of '{name}'.",
                               f"Looked for {name}.jsonl and {split}*.parquet in folders as the hub has them.",
                               "Put its files there, or leave --task-data out to fetch them from the hub.")
    splits = dict.fromkeys(("training_split", "validation_split", "test_split", "fewshot_split"))
    # A member of a group is the one way to change a task of the library's by name.
    return {"group": "local", "task": [{"task": name, **splits, **_files(found, split, scratch), kind: split}]}


def _files(data: LocalData, split: str, scratch: Path) -> dict[str, Any]:
    return {"dataset_path": data.loader, "dataset_name": None,
            "dataset_kwargs": {"data_files": {split: [str(f) for f in data.files]}, "cache_dir": str(scratch)}}


def _load(library: Any, name: str, spec: str | dict[str, Any], local: object) -> Any:
    """`local`: where its data lie here, if they do."""
    try:
        task = next(iter(library.load([spec])["tasks"].values()))
    except Exception as e:                             # a reader of data fails in ways of its own
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0].rstrip(".")
        raise TasksUnavailable(f"The data of task '{name}' can't be loaded.", f"{reason}.",
                               "Check its files in the folder of --task-data: each question has the fields of the task's own "
                               "data set." if local is not None else
                               "Check the connection to the hub, or give its files with --task-data FOLDER.") from e
    if getattr(task, "OUTPUT_TYPE", "") != "multiple_choice":
        raise TasksUnavailable(f"'{name}' is not a task with choices.", "Answers are compared choice by choice.", "Leave it out.")
    return task


def _questions(name: str, task: Any, limit: int | None) -> list[_Question]:
    """The first questions and their requests, as the library makes them (with its own number of examples, mostly none)."""
    found = []
    try:
        for number, document in task.doc_iterator(limit=limit):
            context = task.fewshot_context(document, num_fewshot=task.config.num_fewshot or 0)
            instances = task.construct_requests(doc=document, ctx=context, metadata=(name, number, 1))
            found.append(_Question(document, instances, tuple(len(choice) for choice in task.doc_to_choice(document))))
    except Exception as e:                             # rows that do not fit the task's templates
        raise TasksUnavailable(f"The questions of '{name}' can't be read.", f"{type(e).__name__}: {e}.",
                               "Their fields must be those of the data set that the task was written for.") from e
    if not found:
        raise TasksUnavailable(f"Task '{name}' has no questions.", "", "Give its data with --task-data FOLDER.")
    return found

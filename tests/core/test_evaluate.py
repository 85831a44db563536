"""Measuring a delta: which text counts as unseen, and what comes out."""

from __future__ import annotations

import json
from copy import copy
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from core.artifact import Delta
from core.calibration import split_samples
from core.checkpoint import open_checkpoint
from core.errors import ArchitectureMismatch, BadOption, CalibrationUnusable, Cancelled, DeltaCorrupt
from core.evaluate import (
    HeldOutText,
    check_fine_tune,
    evaluate_answers,
    evaluate_delta,
    evaluate_tasks,
    held_out_text,
    layer_recoveries,
)
from core.record import Losses, Slice
from tests.core.test_export import make_delta
from tests.models import (
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    tensors_of,
)


@pytest.fixture
def made(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> tuple[Path, Path, Delta]:
    base, tuned = make_pair(tmp_path, "llama-tied", tokenizer, share=0.1)
    return base, tuned, make_delta(tmp_path, base, tuned)


def text_for(made: tuple[Path, Path, Delta], source: Path | str, tokens: int, length: int | None = None) -> HeldOutText:
    with open_checkpoint(made[0]) as base, open_checkpoint(made[1]) as tuned:
        return held_out_text(made[2], base, tuned, str(source), tokens=tokens, sequence_length=length, offline=True)


def test_text_of_the_same_source_begins_behind_what_calibration_took(
    tmp_path: Path, made: tuple[Path, Path, Delta], tokenizer: PreTrainedTokenizerFast
) -> None:
    taken = made[2].config.calibration["samples"]
    total = sum(taken.values())
    assert total > 8
    source = str(tmp_path / "text.txt")
    stream = split_samples(source, tokenizer, counts={"all": total + 10}, sequence_length=16, seed=0).parts["all"]
    found = text_for(made, tmp_path / "text.txt", 160)
    assert torch.equal(found.ids, stream[total:])
    assert found.source == "text.txt"
    assert not found.note


def test_sequences_of_another_length_share_no_token_with_calibration(
    tmp_path: Path, made: tuple[Path, Path, Delta], tokenizer: PreTrainedTokenizerFast
) -> None:
    total = sum(made[2].config.calibration["samples"].values())
    stream = split_samples(str(tmp_path / "text.txt"), tokenizer, counts={"all": 400}, sequence_length=24, seed=0).parts["all"]
    found = text_for(made, tmp_path / "text.txt", 96, 24)
    first = next(i for i, row in enumerate(stream) if torch.equal(row, found.ids[0]))
    assert first * 24 >= total * 16
    assert (first - 2) * 24 < total * 16                 # and little is wasted


def test_a_short_source_is_filled_with_what_was_held_out(
    tmp_path: Path, made: tuple[Path, Path, Delta], tokenizer: PreTrainedTokenizerFast
) -> None:
    base, tuned, delta = made
    source = str(tmp_path / "text.txt")
    stream = split_samples(source, tokenizer, counts={"all": 10_000}, sequence_length=16, seed=0).parts["all"]
    have = len(stream)
    samples = {"fit": have - 20, "fit_held_out": 4, "tune": 4, "tune_held_out": 9}
    config = msgspec.structs.replace(delta.config, calibration={**delta.config.calibration, "samples": samples})
    delta = copy(delta)
    delta.config = config
    found = text_for((base, tuned, delta), tmp_path / "text.txt", 11 * 16)
    assert torch.equal(found.ids, torch.cat([stream[have - 3:], stream[have - 12:have - 4]]))
    assert "held out while" in found.note
    nothing = {"fit": have - 1, "fit_held_out": 0, "tune": 0, "tune_held_out": 1}
    delta.config = msgspec.structs.replace(delta.config, calibration={**delta.config.calibration, "samples": nothing})
    with pytest.raises(CalibrationUnusable, match="too little left"):
        text_for((base, tuned, delta), tmp_path / "text.txt", 160)


def test_text_of_another_source_begins_at_its_beginning(
    tmp_path: Path, made: tuple[Path, Path, Delta], tokenizer: PreTrainedTokenizerFast
) -> None:
    stream = split_samples("default", tokenizer, counts={"all": 20}, sequence_length=16, seed=0).parts["all"]
    assert torch.equal(text_for(made, "default", 320).ids, stream)
    with pytest.raises(BadOption):
        text_for(made, "default", 0)


def test_a_variant_lies_between_base_and_fine_tune(tmp_path: Path, made: tuple[Path, Path, Delta]) -> None:
    text, steps = text_for(made, "default", 400), []
    with open_checkpoint(made[0]) as base, open_checkpoint(made[1]) as tuned:
        report = evaluate_delta(made[2], base, tuned, text, device="cpu", progress=lambda done, of: steps.append((done, of)))

        def stop(done: int, total: int) -> None:
            raise Cancelled("Stop.")
        with pytest.raises(Cancelled):
            evaluate_delta(made[2], base, tuned, text, device="cpu", progress=stop)
    assert 0 < report.variant.kl_mean < report.base.kl_mean
    assert report.recovery == 1 - report.variant.kl_mean / report.base.kl_mean > 0.3
    assert report.tokens == 400
    assert steps[-1][0] == steps[-1][1] == len(steps)     # the total is known beforehand
    assert set(report.as_dict()) == {"tokens", "base", "variant", "fine_tuned", "recovery", "recovery_se"}
    assert 0 < report.recovery_se < report.base.kl_se / report.base.kl_mean


def test_an_exact_delta_recovers_everything_though_vocabularies_differ(
    tmp_path: Path, made: tuple[Path, Path, Delta]
) -> None:
    tensors = perturb(tensors_of(made[0]), only=lambda name, tensor: tensor.dim() == 1)   # norms are stored exactly
    name = "model.embed_tokens.weight"
    tensors[name] = torch.cat([tensors[name], torch.full((3, 32), 0.1)])
    grown = save_beside(tmp_path / "grown", made[0], tensors, vocab_size=263)
    (tmp_path / "other").mkdir()
    delta = make_delta(tmp_path / "other", made[0], grown)
    with open_checkpoint(made[0]) as base, open_checkpoint(grown) as tuned:
        ids = torch.randint(0, 263, (5, 16), generator=torch.Generator().manual_seed(0))
        report = evaluate_delta(delta, base, tuned, HeldOutText(ids, "random"), device="cpu")
    assert report.variant.kl_mean == 0
    assert report.variant.top1 == 1
    assert report.recovery == 1
    assert report.base.kl_mean > 0


def test_answers_and_questions_are_compared_without_an_export(tmp_path: Path, made: tuple[Path, Path, Delta]) -> None:
    text = text_for(made, "default", 200)
    rows = [{"question": f"What is {n}?", "choices": ["a word", f"{n}", "no"], "answer": 1} for n in range(4)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps: list[tuple[int, int]] = []
    with open_checkpoint(made[0]) as base, open_checkpoint(made[1]) as tuned:
        answers = evaluate_answers(made[2], base, tuned, text, prompts=5, tokens=6, device="cpu",
                                   progress=lambda done, of: steps.append((done, of)))
        (task,) = evaluate_tasks(made[2], base, tuned, ["own"], data=tmp_path, limit=3, device="cpu")
        with pytest.raises(BadOption):
            evaluate_answers(made[2], base, tuned, text, prompts=0, device="cpu")
    assert answers.prompts == 5
    assert answers.models["base"].tokens_mean <= answers.models["variant"].tokens_mean <= answers.answer_mean <= 6
    assert steps[-1][0] <= steps[-1][1]
    assert task.questions == 3
    assert set(task.scores) == {"fine_tuned", "base", "variant"}
    assert task.scores["fine_tuned"].same == 1


def test_layers_are_named_worst_first(made: tuple[Path, Path, Delta]) -> None:
    delta = copy(made[2])
    records = list(delta.records.values())
    fitted = [r for r in records if r.losses]
    halves = (Slice(0, 1, "row", 1), Slice(1, 4, "row", 3))
    split = msgspec.structs.replace(fitted[0], slices=halves, losses=(Losses(held_out=0.1), Losses(held_out=2.1)))
    delta.records = {r.name: split if r is fitted[0] else r for r in records}
    found = layer_recoveries(delta)
    assert (found[0].name, found[0].codec) == (split.name, split.codec)
    assert found[0].recovery == pytest.approx((0.9 + 3 * -1.1) / 4)      # slices weigh by their outputs
    assert [layer.recovery for layer in found] == sorted(layer.recovery for layer in found)
    assert len(found) == len(fitted)


def test_the_base_given_as_fine_tune_is_refused(tmp_path: Path, made: tuple[Path, Path, Delta]) -> None:
    text = text_for(made, tmp_path / "text.txt", 160)
    with open_checkpoint(made[0]) as base, pytest.raises(BadOption, match="closer to the base"):
        evaluate_delta(made[2], base, base, text, device="cpu")


def test_a_damaged_delta_is_not_evaluated(tmp_path: Path, made: tuple[Path, Path, Delta]) -> None:
    text = text_for(made, tmp_path / "text.txt", 160)
    weights = made[2].folder / "delta_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    weights.write_bytes(raw)
    with open_checkpoint(made[0]) as base, open_checkpoint(made[1]) as tuned, pytest.raises(DeltaCorrupt, match="damaged"):
        evaluate_delta(made[2], base, tuned, text, device="cpu")


def test_a_fine_tune_of_another_width_is_refused_at_once(tmp_path: Path, made: tuple[Path, Path, Delta],
                                                         tokenizer: PreTrainedTokenizerFast) -> None:
    text = text_for(made, tmp_path / "text.txt", 160)
    (tmp_path / "wide").mkdir()
    _, wide = make_pair(tmp_path / "wide", "llama-tied", tokenizer, hidden_size=64, intermediate_size=96)
    with open_checkpoint(made[0]) as base, open_checkpoint(wide) as tuned, pytest.raises(
            ArchitectureMismatch, match=r"can't be the fine-tune of this delta: its '.*' is \d+") as caught:
        evaluate_delta(made[2], base, tuned, text, device="cpu")
    assert caught.value.why and caught.value.remedy
    with open_checkpoint(made[1]) as tuned:
        check_fine_tune(made[2], tuned)

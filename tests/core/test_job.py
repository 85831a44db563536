"""Jobs on awkward pairs, refusals that leave nothing behind, and resumes that end in the same bytes."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from core import fit, stream
from core.artifact import verify_files
from core.checkpoint import open_checkpoint
from core.errors import BadOption, CalibrationUnusable, Cancelled, JobMismatch, NoSpace, OutputExists, Refused
from core.events import AnyEvent, LayerFitted, TunePoint, Warned
from core.job import Job, Result
from core.request import Request
from tests.models import (
    Tensors,
    is_linear,
    make_model,
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
    write_text,
)

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WIDER = {"hidden_size": 48, "intermediate_size": 96, "num_key_value_heads": 4}
"""For factors: in narrower matrices signs are as small."""
Tokenizer = PreTrainedTokenizerFast


def request(folder: Path, base: Path, tuned: Path, name: str = "delta", **settings: Any) -> Request:
    wanted = {"calibration": str(write_text(folder)), "samples": 6, "tune_samples": 4, "sequence_length": 24, **settings}
    return Request(base=str(base), fine_tuned=str(tuned), output=str(folder / name), **wanted)


def check(result: Result, base: Path, tuned: Path) -> Tensors:
    """Sizes, hashes, shapes and exact codecs of a finished delta; returns the variant's tensors."""
    assert result.delta.weights_bytes == result.plan.weights_bytes
    assert sum(f.stat().st_size for f in result.folder.iterdir() if f.name.startswith("delta_model")) == result.plan.weights_bytes
    assert [name for name, problem in verify_files(result.delta) if problem] == []
    wanted = tensors_of(tuned)
    assert result.delta.records.keys() == wanted.keys()
    variant = {}
    with open_checkpoint(base) as opened:
        for name, record in result.delta.records.items():
            variant[name] = result.delta.variant(opened, name).clone()
            assert (variant[name].shape, variant[name].dtype) == (wanted[name].shape, wanted[name].dtype), name
            if record.codec in ("same", "rows", "sparse", "full"):
                assert torch.equal(variant[name], wanted[name]), name
    return variant


def run(folder: Path, base: Path, tuned: Path, **settings: Any) -> tuple[Result, Tensors]:
    result = Job(request(folder, base, tuned, **settings), lambda event: None).run()
    return result, check(result, base, tuned)


def codecs(result: Result) -> dict[str, str]:
    return {r.name: r.codec for r in result.delta.records.values()}


def nothing_written(folder: Path) -> bool:
    return not [p for p in folder.iterdir() if p.name.startswith((".delta", "delta"))]


# ------------------------------------------------------------------------------- embeddings, heads, vocabularies
def tie_pair(folder: Path, tokenizer: Tokenizer, base_tied: bool, tuned_tied: bool) -> tuple[Path, Path]:
    base = save_model(folder / "base", make_model("llama", tie_word_embeddings=base_tied), tokenizer)
    wanted = perturb(tensors_of(base), 0.02)
    if base_tied and not tuned_tied:
        wanted[HEAD] = perturb({HEAD: wanted[EMBED]}, 0.05, seed=9)[HEAD]
    if tuned_tied and not base_tied:
        del wanted[HEAD]
    return base, save_beside(folder / "tuned", base, wanted, tie_word_embeddings=tuned_tied)


@pytest.mark.parametrize(("base_tied", "tuned_tied"), [*itertools.product([True, False], repeat=2)])
def test_embedding_and_head_tied_or_not(tmp_path: Path, tokenizer: Tokenizer, base_tied: bool, tuned_tied: bool) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, base_tied, tuned_tied)
    result, variant = run(tmp_path, base, tuned)
    assert (HEAD in variant) == (not tuned_tied)
    before, wanted = tensors_of(base), tensors_of(tuned)
    for name in (EMBED, HEAD) if HEAD in variant else (EMBED,):
        record = result.delta.records[name]
        start = before[record.base or ""]
        assert (record.codec, record.planes) == ("sign", 2)
        assert (variant[name] - wanted[name]).norm() < 0.6 * (start - wanted[name]).norm()
    assert ("head is tied" in " ".join(result.delta.config.warnings)) == (base_tied != tuned_tied)
    assert result.delta.config.fidelity["variant"] < result.delta.config.fidelity["base"]


@pytest.mark.parametrize("architecture", ["llama", "llama-tied", "gpt2", "opt"])
@pytest.mark.parametrize("rows", [-9, 7])
@pytest.mark.parametrize("moved", [False, True])
def test_vocabularies_that_grew_or_shrank(tmp_path: Path, tokenizer: Tokenizer, architecture: str, rows: int,
                                          moved: bool) -> None:
    base = save_model(tmp_path / "base", make_model(architecture), tokenizer)
    size = 260 + rows
    wanted = perturb(tensors_of(base), 0.01, only=lambda n, t: t.dim() == 2 and (moved or is_linear(n, t)))
    ends = [n for n, t in wanted.items() if t.shape[:1] == (260,)]
    assert ends
    for name in ends:
        fresh = 0.1 * torch.randn(max(0, rows), wanted[name].shape[1], generator=torch.Generator().manual_seed(2))
        wanted[name] = torch.cat([wanted[name], fresh])[:size]
    tuned = save_beside(tmp_path / "tuned", base, wanted, vocab_size=size)
    result, variant = run(tmp_path, base, tuned)
    for name in ends:
        matrix = result.delta.records[name]
        expected = "sign" if moved and architecture != "opt" else "rows" if rows > 0 else "same"
        if architecture != "opt":                      # 16 wide: too narrow there for signs to pay in every case
            assert matrix.codec == expected, name
        assert torch.equal(variant[name][260:], wanted[name][260:])
    assert result.delta.config.fidelity["variant"] < result.delta.config.fidelity["base"]


def test_a_shrunken_vocabulary_with_few_changed_entries(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base = save_model(tmp_path / "base", make_model("llama-tied"), tokenizer)
    wanted = tensors_of(base)
    wanted[EMBED] = wanted[EMBED][:250].clone()
    wanted[EMBED][torch.arange(0, 250, 50), 3] += 1.0
    result, _ = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted, vocab_size=250))
    assert codecs(result)[EMBED] == "sparse"


@pytest.mark.parametrize("changed", [HEAD, EMBED])
def test_only_the_head_or_only_the_embedding_changed(tmp_path: Path, tokenizer: Tokenizer, changed: str) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer, share=0.05, only=lambda n, t: n == changed)
    result, _ = run(tmp_path, base, tuned)
    assert {n for n, c in codecs(result).items() if c != "same"} == {changed}
    assert result.delta.config.fidelity["variant"] < 0.3 * result.delta.config.fidelity["base"]


def test_head_and_layers_changed_but_not_the_embedding(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer, only=lambda n, t: t.dim() == 2 and n != EMBED)
    result, _ = run(tmp_path, base, tuned)
    assert codecs(result)[EMBED] == "same" and codecs(result)[HEAD] == "sign"
    assert len(result.delta.config.fidelity["training"]) > 0


def test_a_tied_head_that_is_stored_as_well(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base = save_model(tmp_path / "base", make_model("llama-tied"), tokenizer)
    wanted = perturb(tensors_of(base), 0.02)
    wanted[HEAD] = wanted[EMBED].clone()
    result, _ = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    assert result.delta.config.fidelity["variant"] < 0.3 * result.delta.config.fidelity["base"]


# ----------------------------------------------------------------------------------------------- codecs and types
TYPES = [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.float16), (torch.float32, torch.bfloat16),
         (torch.float16, torch.bfloat16), (torch.float16, torch.float16)]


@pytest.mark.parametrize(("first", "second"), TYPES)
def test_mixed_types(tmp_path: Path, tokenizer: Tokenizer, first: torch.dtype, second: torch.dtype) -> None:
    base = save_model(tmp_path / "base", make_model("qwen2").to(first), tokenizer)
    wanted = {n: t.to(second) for n, t in perturb({n: t.float() for n, t in tensors_of(base).items()}, 0.02).items()}
    result, _ = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    assert result.delta.config.fidelity["variant"] < result.delta.config.fidelity["base"]
    assert "sign" in codecs(result).values()


def test_a_type_per_tensor(tmp_path: Path, tokenizer: Tokenizer) -> None:
    types = itertools.cycle([torch.bfloat16, torch.float32, torch.float16])
    first = save_model(tmp_path / "first", make_model("llama"), tokenizer)
    base = save_beside(tmp_path / "base", first, {n: t.to(next(types)) for n, t in sorted(tensors_of(first).items())})
    next(types)
    moved = perturb(tensors_of(base), 0.02, only=lambda n, t: True)
    tuned = save_beside(tmp_path / "tuned", base, {n: t.to(next(types)) for n, t in sorted(moved.items())})
    result, _ = run(tmp_path, base, tuned)
    assert result.delta.config.fidelity["variant"] < result.delta.config.fidelity["base"]


def test_odd_widths(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer, dtype=torch.bfloat16, only=lambda n, t: t.dim() == 2, hidden_size=60,
                            intermediate_size=173, num_attention_heads=6)
    result, _ = run(tmp_path, base, tuned)
    shapes = {r.shape for r in result.delta.records.values() if r.codec == "sign"}
    assert {(173, 60), (60, 173), (260, 60)} <= shapes


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2", "opt", "neox"])
def test_one_dimensional_changes_are_exact_and_zero_bases_do_no_harm(tmp_path: Path, tokenizer: Tokenizer,
                                                                    architecture: str) -> None:
    base = save_model(tmp_path / "base", make_model(architecture), tokenizer)
    wanted = {n: t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1)) if t.dim() == 1 else t
              for n, t in tensors_of(base).items()}
    result, variant = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    assert all(torch.equal(variant[n], wanted[n]) for n in wanted)
    assert result.delta.config.fidelity["variant"] < 1e-6 < result.delta.config.fidelity["base"]


def test_a_matrix_of_zeros_in_the_base(tmp_path: Path, tokenizer: Tokenizer) -> None:
    first = save_model(tmp_path / "first", make_model("llama"), tokenizer)
    tensors = tensors_of(first)
    zero = "model.layers.0.self_attn.o_proj.weight"
    wanted = perturb(tensors, 0.02)
    tensors[zero].zero_()
    base = save_beside(tmp_path / "base", first, tensors)
    result, variant = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    assert result.delta.records[zero].change == 1.0
    assert (variant[zero] - wanted[zero]).norm() < wanted[zero].norm()


def test_nothing_changed(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, _ = make_pair(tmp_path, "llama", tokenizer)
    result, _ = run(tmp_path, base, base)
    assert set(codecs(result).values()) == {"same"}
    assert any("will be empty" in w for w in result.delta.config.warnings)
    assert result.delta.config.fidelity["base"] == pytest.approx(0, abs=1e-6)


def merged_lora(base: Tensors, rank: int) -> Tensors:
    """Every matrix of the blocks plus the product of two thin random ones, in the base's type."""
    generator = torch.Generator().manual_seed(6)
    result = {}
    for name, tensor in sorted(base.items()):
        result[name] = tensor.clone()
        if is_linear(name, tensor):
            left = torch.randn(tensor.shape[0], rank, generator=generator)
            right = torch.randn(rank, tensor.shape[1], generator=generator)
            size = 0.3 * tensor.float().square().mean().sqrt()
            result[name] = (tensor.float() + size * left @ right / rank**0.5).to(tensor.dtype)
    return result


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rank", [2, 4])
def test_a_merged_adapter_becomes_factors(tmp_path: Path, tokenizer: Tokenizer, dtype: torch.dtype, rank: int) -> None:
    base = save_model(tmp_path / "base", make_model("llama", **WIDER).to(dtype), tokenizer)
    before = tensors_of(base)
    wanted = merged_lora(before, rank)
    result, variant = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    linear = [n for n, t in wanted.items() if is_linear(n, t) and min(t.shape) >= 24]
    factored = [n for n in linear if result.delta.records[n].codec == "lowrank"]
    assert len(factored) >= 0.9 * len(linear)
    for name in factored:
        assert result.delta.records[name].rank == rank, name
        gap, change = (variant[name].float() - wanted[name].float()).abs(), wanted[name].float() - before[name].float()
        # Factors have 11 bits, so the change is right to some 2**-10; in BF16 that disappears within one rounding.
        slack = 2**-7 * wanted[name].float().abs() if dtype == torch.bfloat16 else 0.0
        assert bool((gap <= slack + 3e-3 * change.abs().max()).all()), name
    assert result.delta.config.fidelity["variant"] < 0.01 * result.delta.config.fidelity["base"]


def test_all_codecs_in_one_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base = save_model(tmp_path / "base", make_model("llama", **WIDER).to(torch.bfloat16), tokenizer)
    tensors = tensors_of(base)
    low, signs = merged_lora(tensors, 2), perturb(tensors, 0.02)
    block = "model.layers.0."
    wanted = dict(tensors)
    wanted[f"{block}mlp.up_proj.weight"] = low[f"{block}mlp.up_proj.weight"]
    wanted[f"{block}mlp.down_proj.weight"] = signs[f"{block}mlp.down_proj.weight"]
    wanted[f"{block}input_layernorm.weight"] = tensors[f"{block}input_layernorm.weight"] + 0.25
    wanted[EMBED] = tensors[EMBED].clone()
    wanted[EMBED][77] += 1.0
    sparse = f"{block}mlp.gate_proj.weight"
    wanted[sparse] = tensors[sparse].clone()
    wanted[sparse][torch.arange(0, 90, 10), torch.arange(9)] += 0.5
    result, _ = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted))
    found = codecs(result)
    assert {n: found.pop(n) for n in (f"{block}mlp.up_proj.weight", f"{block}mlp.down_proj.weight",
                                      f"{block}input_layernorm.weight", EMBED, sparse)} == {
        f"{block}mlp.up_proj.weight": "lowrank", f"{block}mlp.down_proj.weight": "sign",
        f"{block}input_layernorm.weight": "full", EMBED: "rows", sparse: "sparse"}
    assert set(found.values()) == {"same"}


# -------------------------------------------------------------------------------------------------------- refusals
def other_architecture(folder: Path, base: Path) -> Path:
    return save_model(folder / "tuned", make_model("qwen3"))


def other_width(folder: Path, base: Path) -> Path:
    return save_model(folder / "tuned", make_model("llama", hidden_size=48))


def other_inner_width(folder: Path, base: Path) -> Path:
    return save_model(folder / "tuned", make_model("llama", intermediate_size=64))


def other_depth(folder: Path, base: Path) -> Path:
    return save_model(folder / "tuned", make_model("llama", num_hidden_layers=3))


def a_tensor_less(folder: Path, base: Path) -> Path:
    tensors = tensors_of(base)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    return save_beside(folder / "tuned", base, tensors)


def a_tensor_more(folder: Path, base: Path) -> Path:
    return save_beside(folder / "tuned", base, tensors_of(base) | {"model.layers.0.adapter.weight": torch.ones(4, 4)})


def biases_that_the_base_lacks(folder: Path, base: Path) -> Path:
    return save_model(folder / "tuned", make_model("llama", attention_bias=True))


def with_value(name: str, value: float) -> Callable[[Path, Path], Path]:
    def make(folder: Path, base: Path) -> Path:
        tensors = perturb(tensors_of(base))
        tensors[name].view(-1)[-1] = value
        return save_beside(folder / "tuned", base, tensors)
    return make


def a_grown_vocabulary_with_nan(folder: Path, base: Path) -> Path:
    tensors = tensors_of(base)
    for name in (EMBED, HEAD):
        tensors[name] = torch.cat([tensors[name], torch.full((2, 32), float("nan"))])
    return save_beside(folder / "tuned", base, tensors, vocab_size=262)


REFUSALS = {
    "other architecture": (other_architecture, "'llama'.*'qwen3'"), "other width": (other_width, "hidden_size is 32"),
    "other inner width": (other_inner_width, "intermediate_size"), "other depth": (other_depth, "num_hidden_layers"),
    "a tensor less": (a_tensor_less, "up_proj"), "a tensor more": (a_tensor_more, "adapter"),
    "biases that the base lacks": (biases_that_the_base_lacks, "The base lacks"),
    "nan": (with_value("model.layers.1.mlp.up_proj.weight", float("nan")), "up_proj.*tuned.*NaN"),
    "infinity": (with_value("model.norm.weight", float("-inf")), "model.norm.*infinite"),
    "nan in new rows": (a_grown_vocabulary_with_nan, "NaN")}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_no_pair_is_refused_and_nothing_written(tmp_path: Path, tokenizer: Tokenizer, case: str) -> None:
    base = save_model(tmp_path / "base", make_model("llama"), tokenizer)
    make, sentence = REFUSALS[case]
    tuned = make(tmp_path, base)
    with pytest.raises(Refused, match=sentence):
        Job(request(tmp_path, base, tuned), lambda event: None).run()
    assert nothing_written(tmp_path)


def test_a_base_that_lacks_a_tensor_or_holds_infinities_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    whole, tuned = make_pair(tmp_path, "llama", tokenizer)
    tensors = tensors_of(whole)
    lacking = save_beside(tmp_path / "lacking", whole, {n: t for n, t in tensors.items() if "layers.1.mlp.up" not in n})
    with pytest.raises(Refused, match=r"The base lacks.*up_proj"):
        Job(request(tmp_path, lacking, tuned), lambda event: None).run()
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("inf")
    infinite = save_beside(tmp_path / "infinite", whole, tensors)
    with pytest.raises(Refused, match=r"up_proj.*infinite' holds NaN or infinite"):
        Job(request(tmp_path, infinite, tuned), lambda event: None).run()
    assert nothing_written(tmp_path)


def test_a_full_disk_is_refused(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=10**9, used=10**9, free=1000))
    with pytest.raises(NoSpace, match="0 MB are free"):
        Job(request(tmp_path, base, tuned), lambda event: None).run()
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("settings", [
    {"recipe": "best"}, {"axis": "diagonal"}, {"embeddings": "none"}, {"samples": 1}, {"tune_samples": -1},
    {"sequence_length": 4}, {"objective": "mae"}, {"device": "abacus"}], ids=lambda s: next(iter(s)))
def test_bad_options_are_refused(tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, Any]) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    with pytest.raises(BadOption):
        Job(request(tmp_path, base, tuned, **settings), lambda event: None).run()
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("source", ["none.txt", "short.txt"])
def test_unusable_calibration_leaves_nothing_behind(tmp_path: Path, tokenizer: Tokenizer, source: str) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    (tmp_path / "short.txt").write_text("Too short.")
    with pytest.raises(CalibrationUnusable):
        Job(request(tmp_path, base, tuned, calibration=str(tmp_path / source)), lambda event: None).run()
    assert nothing_written(tmp_path)


def test_a_pair_without_a_tokeniser_leaves_nothing_behind(tmp_path: Path) -> None:
    base, tuned = make_pair(tmp_path, "llama")
    with pytest.raises(CalibrationUnusable, match="tokeniser"):
        Job(request(tmp_path, base, tuned), lambda event: None).run()
    assert nothing_written(tmp_path)


def test_what_a_kill_in_the_last_moment_leaves_is_taken_away(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = tmp_path / "delta.job"
    (tmp_path / "delta").mkdir()
    folder.mkdir()
    for name in ("lock", "block-0000-done.step"):
        (folder / name).touch()
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    asked = Request(base=str(base), fine_tuned=str(tuned), output=str(tmp_path / "delta"))
    with pytest.raises(OutputExists):
        Job(asked, lambda event: None).run()
    assert not folder.exists()
    folder.mkdir()
    (folder / "thesis.txt").touch()                    # somebody's own
    with pytest.raises(OutputExists):
        Job(asked, lambda event: None).run()
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_existing_output_is_left_alone(tmp_path: Path, tokenizer: Tokenizer, kind: str) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    target = tmp_path / "delta"
    target.mkdir() if kind == "folder" else target.write_text("mine")
    with pytest.raises(OutputExists):
        Job(request(tmp_path, base, tuned), lambda event: None).run()
    assert target.exists() and not (tmp_path / "delta.job").exists()
    assert list(target.iterdir()) == [] if kind == "folder" else target.read_text() == "mine"


# --------------------------------------------------------------------------------------------------------- resuming
class Stopper:
    """Asks a job to stop after `count` events of a kind."""

    def __init__(self, kind: type[AnyEvent], count: int) -> None:
        self.kind, self.left = kind, count
        self.events: list[AnyEvent] = []

    def tell(self, event: AnyEvent) -> None:
        self.events.append(event)
        self.left -= isinstance(event, self.kind)

    def cancelled(self) -> bool:
        return self.left <= 0


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


def interrupt(wanted: Request, kind: type[AnyEvent], count: int) -> list[AnyEvent]:
    stopper = Stopper(kind, count)
    with pytest.raises(Cancelled):
        Job(wanted, stopper.tell, stopper.cancelled).run()
    output = Path(wanted.output)
    assert not output.exists() and output.with_name(output.name + ".job").is_dir()
    return stopper.events


def same_bytes(folder: Path, wanted: Request, stops: list[tuple[type[AnyEvent], int]]) -> None:
    """A job stopped at each of the points, and gone on with after each, makes the files of an unbroken one."""
    whole = contents(Job(wanted, lambda event: None).run().folder)
    for kind, count in stops:
        (folder / "delta").rename(folder / f"before-{kind.__name__}-{count}")
        interrupt(wanted, kind, count)
        found = contents(Job(wanted, lambda event: None).run().folder)
        assert found.keys() == whole.keys()
        for name, content in whole.items():
            assert found[name] == content, f"{name} after {count} {kind.__name__}"
        assert not (folder / "delta.job").exists()


@pytest.mark.parametrize(("architecture", "stops"), [
    ("llama-tied", [(LayerFitted, 1), (LayerFitted, 3), (LayerFitted, 8), (TunePoint, 1), (TunePoint, 2), (TunePoint, 3)]),
    ("gpt2", [(LayerFitted, 5), (TunePoint, 2)])])
def test_a_resumed_job_makes_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer, architecture: str,
                                            stops: list[tuple[type[AnyEvent], int]]) -> None:
    base, tuned = make_pair(tmp_path, architecture, tokenizer, only=lambda n, t: t.dim() == 2)
    same_bytes(tmp_path, request(tmp_path, base, tuned, tune_samples=90), stops)


@pytest.mark.parametrize("settings", [{"recipe": "paper"}, {"recipe": "bitdelta"}, {"axis": "both"}], ids=str)
def test_other_recipes_resume_to_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer, settings: dict[str, str]) -> None:
    base, tuned = make_pair(tmp_path, "qwen2-tied", tokenizer, only=lambda n, t: t.dim() == 2)
    stops: list[tuple[type[AnyEvent], int]] = [(TunePoint, 2)] if "recipe" in settings else [(LayerFitted, 4)]
    if settings.get("recipe") == "paper":
        stops.append((LayerFitted, 5))
    same_bytes(tmp_path, request(tmp_path, base, tuned, **settings), stops)


def test_adapters_resume_to_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base = save_model(tmp_path / "base", make_model("llama-tied", **WIDER), tokenizer)
    moved = merged_lora(tensors_of(base), 2)
    moved[EMBED] = perturb({EMBED: moved[EMBED]}, 0.02)[EMBED]
    tuned = save_beside(tmp_path / "tuned", base, moved)
    same_bytes(tmp_path, request(tmp_path, base, tuned), [(LayerFitted, 2), (LayerFitted, 9)])


def test_warnings_survive_a_resume(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "mixtral", tokenizer, num_local_experts=8, num_experts_per_tok=1, num_hidden_layers=3)
    wanted = request(tmp_path, base, tuned, samples=2, tune_samples=0, sequence_length=8)
    result = Job(wanted, lambda event: None).run()
    assert any("No token" in w for w in result.delta.config.warnings)
    fitted = sum(r.codec == "sign" for r in result.plan.records)
    shutil.rmtree(tmp_path / "delta")
    same_bytes(tmp_path, wanted, [(LayerFitted, fitted - 2), (TunePoint, 2)])


def test_a_torn_journal_entry_is_made_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    wanted = request(tmp_path, base, tuned)
    whole = contents(Job(wanted, lambda event: None).run().folder)
    (tmp_path / "delta").rename(tmp_path / "before")
    interrupt(wanted, TunePoint, 1)
    entries = sorted((tmp_path / "delta.job").glob("*.step"))
    assert {"calibration.step", "block-0000-done.step", "block-0001-done.step"} <= {e.name for e in entries}
    for i, entry in enumerate(entries):                # torn in various ways: cut, emptied, a byte turned
        raw = bytearray(entry.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        entry.write_bytes(bytes([raw, raw[:len(raw) // 2], b""][i % 3]))
    assert contents(Job(wanted, lambda event: None).run().folder) == whole


def test_a_resumed_job_does_not_fit_finished_layers_again(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    wanted = request(tmp_path, base, tuned)
    first = interrupt(wanted, LayerFitted, 9)
    second: list[AnyEvent] = []
    Job(wanted, second.append).run()
    names = [[e.tensor for e in events if isinstance(e, LayerFitted) and not e.restored] for events in (first, second)]
    assert len(names[0]) == 9
    assert not {n for n in names[1] if "layers.0." in n}
    restored = [e.tensor for e in second if isinstance(e, LayerFitted) and e.restored]
    assert {n for n in names[0] if "layers.0." in n} <= set(restored)


@pytest.mark.parametrize("change", [{"axis": "row"}, {"seed": 1}, {"samples": 7}])
def test_another_requests_job_folder_is_refused(tmp_path: Path, tokenizer: Tokenizer, change: dict[str, Any]) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    interrupt(request(tmp_path, base, tuned), LayerFitted, 2)
    before = {n: c for n, c in contents(tmp_path / "delta.job").items() if n != "lock"}
    with pytest.raises(JobMismatch, match="belongs to another job: its request"):
        Job(request(tmp_path, base, tuned, **change), lambda event: None).run()
    assert {n: c for n, c in contents(tmp_path / "delta.job").items() if n != "lock"} == before
    assert not (tmp_path / "delta").exists()


def test_a_fine_tune_that_changed_meanwhile_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    wanted = request(tmp_path, base, tuned)
    interrupt(wanted, LayerFitted, 2)
    shutil.rmtree(tuned)
    save_beside(tuned, base, perturb(tensors_of(base), 0.03))
    with pytest.raises(JobMismatch, match="fine_tuned"):
        Job(wanted, lambda event: None).run()


# ------------------------------------------------------------------------------------- same bytes by other ways
def test_spilled_states_and_inputs_made_again_give_the_same_bytes(tmp_path: Path, tokenizer: Tokenizer,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "qwen2", tokenizer)
    wanted = request(tmp_path, base, tuned)
    whole = contents(Job(wanted, lambda event: None).run().folder)
    spilled: list[bool] = []
    make = stream.Hidden.__init__

    def noted(self: stream.Hidden, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        spilled.append(self.path is not None and self.path.exists())
    monkeypatch.setattr(stream.Hidden, "__init__", noted)
    for module, name in ((stream, "SPILL_FROM"), (fit, "KEEP_INPUTS")):
        (tmp_path / "delta").rename(tmp_path / f"before-{name}")
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 0)
            assert contents(Job(wanted, lambda event: None).run().folder) == whole, name
        assert any(spilled) == (name == "SPILL_FROM")
        spilled.clear()


def test_two_unbroken_runs_agree_and_warnings_are_told_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, False)
    events: list[AnyEvent] = []
    first = Job(request(tmp_path, base, tuned), events.append).run()
    second = Job(request(tmp_path, base, tuned), lambda event: None)
    (tmp_path / "delta").rename(tmp_path / "before")
    assert contents(second.run().folder) == contents(tmp_path / "before")
    told = [e.message for e in events if isinstance(e, Warned)]
    assert len(told) == len(set(told)) and tuple(told) == first.delta.config.warnings


def test_a_head_of_new_rows_only_reads_as_the_fine_tunes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base = save_model(tmp_path / "base", make_model("llama"), tokenizer)
    wanted: dict[str, Tensor] = tensors_of(base)
    for name in (EMBED, HEAD):
        wanted[name] = torch.cat([wanted[name], torch.full((3, 32), 0.125)])
    result, variant = run(tmp_path, base, save_beside(tmp_path / "tuned", base, wanted, vocab_size=263), tune_samples=0)
    assert {codecs(result)[EMBED], codecs(result)[HEAD]} == {"rows"}
    assert all(torch.equal(variant[n], wanted[n]) for n in wanted)


# ------------------------------------------------------------------------------------------- what is not the job's
def test_a_folder_of_others_in_the_jobs_place_is_refused_and_kept(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, True)
    (tmp_path / "delta.job").mkdir()
    notes = tmp_path / "delta.job" / "notes.txt"
    notes.write_text("mine")
    with pytest.raises(OutputExists, match="no job's folder"):
        Job(request(tmp_path, base, tuned), lambda event: None).run()
    assert notes.read_text() == "mine"
    assert not (tmp_path / "delta").exists()


def test_a_file_put_into_a_jobs_folder_outlives_the_job(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, True)
    notes = tmp_path / "delta.job" / "notes.txt"

    def tell(event: Any) -> None:
        if type(event).__name__ == "LayerFitted" and not notes.exists():
            notes.write_text("mine")
    Job(request(tmp_path, base, tuned), tell).run()
    assert [p.name for p in notes.parent.iterdir()] == ["notes.txt"]


def test_a_changed_config_is_another_job(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, True)
    seen: list[Any] = []
    with pytest.raises(Cancelled):
        Job(request(tmp_path, base, tuned), seen.append, lambda: len(seen) > 60).run()
    assert (tmp_path / "delta.job" / "job.json").exists()
    config = tuned / "config.json"
    config.write_text(config.read_text().replace("1e-06", "1e-02"))
    with pytest.raises(JobMismatch, match="fine_tuned differs"):
        Job(request(tmp_path, base, tuned), lambda event: None).run()


def test_the_config_is_always_part_of_the_delta(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, True)
    (tuned / "config.json").write_bytes((base / "config.json").read_bytes())
    result, _ = run(tmp_path, base, tuned)
    assert (result.folder / "config.json").read_bytes() == (tuned / "config.json").read_bytes()


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path, tokenizer: Tokenizer) -> None:
    base, tuned = tie_pair(tmp_path, tokenizer, True, True)
    left = tmp_path / ".delta.abc123.partial"
    left.mkdir()
    (left / "delta_model.safetensors").write_bytes(b"half")
    run(tmp_path, base, tuned)
    assert not left.exists()


def test_a_root_is_no_output(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="no name"):
        Job(Request(base="a", fine_tuned="b", output="/"), lambda event: None)

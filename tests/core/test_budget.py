"""Sizes that are asked for: how they are written, that they are never exceeded, and what a budget buys."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from core.artifact import weights_bytes
from core.budget import CANDIDATES, Prices, allocate, curve, is_item, parse_budget, remaining, uniform
from core.budget_stage import forecast_depends
from core.checkpoint import open_checkpoint
from core.errors import BadOption, Cancelled, JobMismatch
from core.events import AnyEvent, LayerFitted, Progress
from core.forecast import Forecast, keep_forecast, load_forecast, parse_quality
from core.job import Job, Result
from core.methods.svdmix_vectors import decompose
from core.outer_ways import WAYS, Costs, Outer, is_outer, stored, ways_of
from core.plan import Plan, PlanOptions, make_plan, record_bytes
from core.probe import (
    BLOCKS,
    SIGNS,
    Candidate,
    Probe,
    probe,
    probed_blocks,
    reference_change,
    reference_factors,
    share_at,
    share_between,
    sizes_at,
)
from core.record import TensorRecord
from core.request import Request
from core.sensitivity import Slope, _Slopes, watch_gradients
from core.variant import Variant
from core.weights import StagedModel, TensorWeights
from tests.core.methods.matrices import evidence
from tests.models import (
    make_model,
    make_pair,
    one_thread,  # noqa: F401 (takes effect by being here)
    perturb,
    save_beside,
    save_model,
    tensors_of,
    write_text,
)

WIDE = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4}


@pytest.mark.parametrize(("text", "nbytes"), [
    ("10x", 100_000_000), ("12.5 X", 80_000_000), ("900MB", 900_000_000), ("1.5 gb", 1_500_000_000), ("2MiB", 2 << 20),
    ("4096", 4096), (".5kB", 500)])
def test_sizes_as_people_write_them(text: str, nbytes: int) -> None:
    assert parse_budget(text, 1_000_000_000) == nbytes


@pytest.mark.parametrize("text", ["", "x", "0x", "-3x", "12y", "1e3MB", "nan", "12x 900MB", "∞", "0", "9" * 400 + "GB", "٣x"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="is no size"):
        parse_budget(text, 1_000_000_000)


@pytest.mark.parametrize("text", ["", "1", "0", "1.2", "x", "nan", "-0.5"])
def test_what_is_no_recovery_is_refused(text: str) -> None:
    with pytest.raises(BadOption, match="is no recovery"):
        parse_quality(text)


def share_of(found: Probe, kind: str, way: Candidate, block: int) -> float | None:
    return share_between(sizes_at(found, kind, way.method, block), way.bits)


def options_for(record: TensorRecord, found: Probe) -> list[tuple[TensorRecord, float]]:
    prices = Prices(found)
    return [(prices.planned(record, i), option.loss) for i, option in enumerate(prices.options(record))]


def _plan(folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Plan:
    base = save_model(folder / "base", make_model("llama", **WIDE), tokenizer)
    tuned = save_beside(folder / "tuned", base, perturb(tensors_of(base), 0.02))
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        return make_plan(a, b, PlanOptions())


def _probe(plan: Plan) -> Probe:
    """Layers of falling weight, each candidate losing the less the more bits it has."""
    items = [r for r in plan.records if is_item(r)]
    shares = {r.kind: {c.key: {0: 0.5 * 4.0 ** -c.bits} for c in CANDIDATES} for r in items}
    own = {r.name: 1.0 / (i + 1) for i, r in enumerate(items)}
    return Probe(own, own, shares)


def test_a_budget_is_kept_and_more_of_it_never_loses_more(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    found = _probe(plan)
    before = 2.0
    for budget in range(int(plan.weights_bytes * 0.6), plan.weights_bytes * 5, plan.weights_bytes // 5):
        chosen = allocate(plan.records, found, budget)
        left = remaining(plan.records, chosen, found)
        assert weights_bytes(chosen) <= budget and left <= before + 0.02
        before = left
    assert before < 0.01 and [r.name for r in chosen] == [r.name for r in plan.records]


def test_what_no_budget_can_pay_is_refused_with_the_least_size(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    with pytest.raises(BadOption, match="too little for this pair"):
        allocate(plan.records, _probe(plan), 1000)


def test_the_curve_falls_from_the_base_to_the_fine_tune(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    points = curve(plan.records, _probe(plan))
    assert points[0][1] == pytest.approx(1.0) and points[-1][1] == pytest.approx(0.0)
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in pairwise(points))


def test_a_matrix_may_be_left_out_stored_whole_or_coded(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    record = next(r for r in plan.records if is_item(r))
    ways = [w for w, _ in options_for(record, _probe(plan))]
    assert {"same", "full", "sign"} <= {w.codec for w in ways} and record in ways


@pytest.mark.parametrize("method", ["planes", "deltamix", "delta-come", "lowrank"])
@pytest.mark.parametrize("share", [0.7, 1.0, 2.3])
def test_an_equal_share_for_every_matrix_keeps_the_budget(tmp_path: Path, method: str, share: float) -> None:
    plan = _plan(tmp_path)
    budget = int(plan.weights_bytes * share)
    try:
        chosen = uniform(plan.records, method, budget)
    except BadOption:
        assert method == "planes" and share < 1        # there is no fewer than one plane
        return
    assert weights_bytes(chosen) <= budget
    assert all(a == b for a, b in zip(plan.records, chosen, strict=True) if not is_item(a))


def test_shares_between_probed_blocks_are_interpolated() -> None:
    found = Probe({}, {}, {"q": {"a@1": {2: 0.1, 6: 0.4}}})
    assert [share_at(found, "q", "a@1", b) for b in (0, 2, 4, 6, 9)] == pytest.approx([0.1, 0.1, 0.2, 0.4, 0.4])
    assert share_at(found, "k", "a@1", 3) is None and share_at(found, "q", "b@1", 3) is None


def test_shares_between_probed_sizes_are_interpolated_and_carried_on() -> None:
    found = Probe({}, {}, {"q": {"a@1": {2: 0.4}, "a@3": {2: 0.1}, "a@4": {2: 0.05}, "b@1": {2: 0.3}}})
    shares = [share_of(found, "q", Candidate("a", bits), 7) for bits in (0, 1, 2, 3, 3.5, 4, 6)]
    assert shares == pytest.approx([0.8, 0.4, 0.2, 0.1, 0.05 * 2**0.5, 0.05, 0.0125])
    assert share_of(found, "q", Candidate("b", 1), 7) == 0.3 and share_of(found, "q", Candidate("b", 2), 7) is None
    assert share_of(found, "k", Candidate("a", 1), 7) is None


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 30, 80])
def test_probed_blocks_lie_within_the_model(depth: int) -> None:
    blocks = probed_blocks(depth)
    assert len(blocks) == min(BLOCKS, depth) and min(blocks) >= 0 and max(blocks) < depth


def test_a_cost_is_the_squared_slope_along_each_outputs_error(tmp_path: Path) -> None:
    """One matrix, two sequences: against autograd's gradient of the weight, a row at a time."""
    base = save_model(tmp_path / "base", make_model("llama"))
    seen: dict[tuple[int, str], Slope] = {}

    def note(block: int, parameter: str, expert: int | None, slope: Slope) -> None:
        seen[block, parameter] = slope
    ids = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(1))
    with open_checkpoint(base) as opened:
        model = StagedModel.of(opened)
        watch_gradients(model, TensorWeights(model, opened.view, torch.device("cpu")), ids, torch.device("cpu"), note, seed=5)
    from transformers import AutoModelForCausalLM

    whole = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    weight = whole.model.layers[0].mlp.down_proj.weight
    generator = torch.Generator().manual_seed(5)
    error = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2))
    expected = 0.0
    for one in ids:
        logits = whole(one[None]).logits[0]
        drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)
        slope, = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, drawn[:, 0], reduction="sum"), weight)
        expected += 0.5 * float((slope * error).sum(1).square().sum())
    found = seen[0, "mlp.down_proj.weight"]            # from states kept in bf16
    assert found.sequences == 2
    assert found.cost(error) == pytest.approx(expected, rel=0.05)
    assert found.narrow().cost(error) == pytest.approx(expected, rel=0.08)
    halves = [found.of(slice(0, 5)).cost(error[:5]), found.of(slice(5, None)).cost(error[5:])]
    assert sum(halves) == pytest.approx(found.cost(error))


def test_a_reference_is_nearly_the_best_of_its_rank() -> None:
    found = evidence(60, 90)
    h = found.parts[0][0]
    left = found.change - reference_change(reference_factors(found.change, h), torch.device("cpu"))
    rank = reference_factors(found.change, h)[0].shape[1]
    best_left, best_right = decompose(found.change, h, rank)
    best = found.change - best_left @ best_right
    lost, least = (float(((e @ h) * e).sum()) for e in (left, best))
    assert least <= lost < 1.1 * least


def test_every_matrix_is_weighed_and_better_candidates_cost_less(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    ways = [Candidate("deltamix-h", 0.75), Candidate("coded", 4.5)]
    with open_checkpoint(tmp_path / "base") as a, open_checkpoint(tmp_path / "tuned") as b:
        model, cpu = StagedModel.of(b), torch.device("cpu")
        names = [r.name for r in plan.records if is_item(r)]
        ids = torch.randint(2, 60, (9, 24), generator=torch.Generator().manual_seed(1))
        found, references = probe(model, Variant(a, b, plan.records), TensorWeights(model, b.view, cpu), ids, cpu, names, ways)
    assert set(found.own) == set(found.reference) == set(references) == set(names)
    assert all(0 < found.reference[n] < found.own[n] for n in names)
    for kind, shares in found.shares.items():
        assert all(shares["coded@4.5"][block] < 0.2 * s for block, s in shares["deltamix-h@0.75"].items()), kind


def _probed_mixture(folder: Path, ids: torch.Tensor, ways: list[Candidate]) -> Probe:
    base, tuned = make_pair(folder, "mixtral", None)
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model, cpu = StagedModel.of(b), torch.device("cpu")
        records = make_plan(a, b, PlanOptions()).records
        names = [r.name for r in records if is_item(r)]
        return probe(model, Variant(a, b, records), TensorWeights(model, b.view, cpu), ids, cpu, names, ways)[0]


def test_one_expert_stands_for_its_kind_in_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[TensorRecord] = []
    monkeypatch.setattr("core.probe._share", lambda record, *rest: learnt.append(record))
    _probed_mixture(tmp_path, torch.randint(2, 60, (6, 16), generator=torch.Generator().manual_seed(1)), [Candidate(SIGNS, 1)])
    assert any("experts" in r.name for r in learnt)
    assert len({(r.kind, r.block) for r in learnt}) == len(learnt)


def test_an_expert_that_no_judging_token_reached_is_worth_something(tmp_path: Path) -> None:
    found = _probed_mixture(tmp_path, torch.full((6, 16), 5), [])       # the same token all over: two experts of four
    experts = {name: cost for name, cost in found.own.items() if "experts" in name}
    assert len(set(experts.values())) < len(experts) and min(experts.values()) > 0


def test_a_matrix_without_any_share_is_better_off_with_signs(tmp_path: Path) -> None:
    record = next(r for r in _plan(tmp_path).records if is_item(r))
    ways = options_for(record, Probe({record.name: 1.0}, {record.name: 1.0}, {}))
    assert [loss for way, loss in ways if way.codec == "sign"] == [0.5]


def test_part_of_the_tokens_is_no_number_of_sequences() -> None:
    seen: list[int] = []
    weight = torch.ones(3, 5)
    with _Slopes(0, {"w": weight}, torch.zeros(2, 4), lambda *told: seen.append(told[3].sequences)):
        whole, part = (torch.nn.functional.linear(torch.ones(n, 5, requires_grad=True), weight) for n in (8, 6))
    whole.sum().backward()
    part.sum().backward()
    assert seen == [2, 0]


def test_a_forecast_depends_on_how_embeddings_are_stored(tmp_path: Path) -> None:
    _plan(tmp_path)
    with open_checkpoint(tmp_path / "base") as a, open_checkpoint(tmp_path / "tuned") as b:
        asked = [_request(tmp_path, a.folder, b.folder, "x", embeddings=how) for how in ("auto", "full")]
        one, other = (forecast_depends(request, a, b, 24, "", torch.device("cpu")) for request in asked)
    assert one != other


# ------------------------------------------------------------------------------------------------------- jobs
@pytest.fixture
def few_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """One candidate below signs and one above: the others take time and show nothing else."""
    ways = (Candidate(SIGNS, 1), Candidate("deltamix-h", 0.5), Candidate("coded", 3))
    monkeypatch.setattr("core.budget.CANDIDATES", ways)
    monkeypatch.setattr("core.budget.OFFERED", ways)
    monkeypatch.setattr("core.forecast.CANDIDATES", ways)


def _request(folder: Path, base: Path, tuned: Path, name: str, **settings: object) -> Request:
    return msgspec.convert({"base": str(base), "fine_tuned": str(tuned), "output": str(folder / name),
                            "calibration": str(write_text(folder)), "samples": 6, "tune_samples": 4,
                            "sequence_length": 24, **settings}, Request)


def _run(folder: Path, base: Path, tuned: Path, name: str = "delta", **settings: object) -> Result:
    result = Job(_request(folder, base, tuned, name, **settings), lambda event: None).run()
    files = [f for f in result.folder.iterdir() if f.name.startswith("delta_model")]
    assert sum(f.stat().st_size for f in files) == result.plan.weights_bytes == result.delta.weights_bytes
    return result


@pytest.mark.parametrize("recipe", ["coded", "deltamix-h", "lowrank"])
def test_a_job_by_one_method_is_as_large_as_planned(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, recipe: str) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    result = _run(tmp_path, base, tuned, recipe=recipe)
    methods = {r.method for r in result.delta.records.values() if r.block is not None and r.codec not in ("full", "same")}
    assert methods == {recipe} and 0 <= result.delta.config.fidelity["variant"] < result.delta.config.fidelity["base"]


@pytest.mark.usefixtures("few_ways")
def test_a_budget_gives_the_best_delta_of_that_size(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    sizes: list[tuple[int, float]] = []
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        plan = make_plan(a, b, PlanOptions())
    for factor in (0.8, 2.5):
        result = _run(tmp_path, base, tuned, f"d{factor}", budget=str(int(plan.weights_bytes * factor)))
        fidelity = result.delta.config.fidelity
        assert result.delta.weights_bytes <= plan.weights_bytes * factor and fidelity["expected_kl"] >= 0
        assert sum(fidelity["methods"].values()) == sum(map(is_item, plan.records))
        sizes.append((result.delta.weights_bytes, fidelity["variant"]))
    assert sizes[1][0] > sizes[0][0] and sizes[1][1] < sizes[0][1]


@pytest.mark.usefixtures("few_ways")
def test_a_job_stores_embeddings_as_the_size_wants(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    base = save_model(tmp_path / "base", make_model("llama", **WIDE), tokenizer)
    tuned = save_beside(tmp_path / "tuned", base, perturb(tensors_of(base), 0.05))
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        outer = [r.name for r in make_plan(a, b, PlanOptions()).records if is_outer(r)]
    lost = []
    for way in ("left out", "1", "3", "whole"):
        def only(fixed: Sequence[TensorRecord], costs: Costs, way: str = way) -> list[Outer]:
            choice = Outer({name: way for name in costs}, 0, 0.0)
            return [Outer(choice.ways, weights_bytes(choice.applied(fixed)), 0.0)]
        monkeypatch.setattr("core.forecast.choices", only)
        told: list[AnyEvent] = []
        asked = _request(tmp_path, base, tuned, way, budget="1.2x")
        delta = Job(asked, told.append, forecasts=tmp_path / "kept").run().delta
        made = [r for r in delta.config.tensors if r.name in outer]
        wanted = {"left out": ("same", 1), "whole": ("full", 1), "1": ("sign", 1), "3": ("sign", 3)}[way]
        assert {(r.codec, r.planes) for r in made} == {wanted} and len(made) == len(outer) > 0
        assert {e.tensor for e in told if isinstance(e, LayerFitted)} > set(outer)
        lost.append(delta.config.fidelity["variant"])
    assert lost == sorted(lost, reverse=True)


@pytest.mark.usefixtures("few_ways")
def test_a_fidelity_is_turned_into_a_size(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    loose, tight = (_run(tmp_path, base, tuned, f"q{q}", quality=q).delta for q in ("0.5", "0.999"))
    assert loose.weights_bytes < tight.weights_bytes
    assert tight.config.method["quality"] == "0.999"


@pytest.mark.usefixtures("few_ways")
def test_a_fidelity_that_was_missed_is_told_with_a_size_that_would_do(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    kept = tmp_path / "kept"

    def warnings(name: str, quality: str) -> list[str]:
        result = Job(_request(tmp_path, base, tuned, name, quality=quality), lambda event: None, forecasts=kept).run()
        return [w for w in result.delta.config.warnings if "was asked for" in w]
    assert not warnings("reached", "0.5")
    monkeypatch.setattr("core.forecast.Forecast.power", property(lambda self: 9.0))      # far too hopeful
    (missed,) = warnings("missed", "0.999")
    size = int(missed.rpartition(" ")[2].removesuffix(")."))
    assert "0.999 was asked for" in missed and size > (tmp_path / "missed" / "delta_model.safetensors").stat().st_size


@pytest.mark.usefixtures("few_ways")
def test_a_cancelled_budget_goes_on_to_the_same_bytes(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    whole = _run(tmp_path, base, tuned, "whole", budget="9x")
    asked = _request(tmp_path, base, tuned, "stopped", budget="9x")
    steps: list[AnyEvent] = []
    for stop in (3, 20, 60):
        steps.clear()
        with suppress(Cancelled):
            Job(asked, lambda event: steps.append(event) if isinstance(event, Progress) else None,
                lambda stop=stop: len(steps) > stop).run()               # type: ignore[misc]
            break
    if not (tmp_path / "stopped").exists():
        Job(asked, lambda event: None).run()
    file = "delta_model.safetensors"
    assert (tmp_path / "stopped" / file).read_bytes() == (whole.folder / file).read_bytes()


@pytest.mark.usefixtures("few_ways")
def test_a_known_forecast_is_not_made_again(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    kept = tmp_path / "forecasts"
    told: list[AnyEvent] = []
    Job(_request(tmp_path, base, tuned, "one", budget="9x"), told.append, forecasts=kept).run()
    assert len(list(kept.iterdir())) == 1
    # While the curve is predicted, a share of 1 is told; then tensors are counted.
    preparing = [e for e in told if isinstance(e, Progress) and e.stage == "prepare"]
    assert len({e.total for e in preparing}) == 2 and preparing[0].total == 1
    assert all(0 <= e.done <= e.total for e in preparing)
    monkeypatch.setattr("core.budget_stage.make_forecast", lambda *a, **k: pytest.fail("measured twice"))
    Job(_request(tmp_path, base, tuned, "two", budget="7x"), lambda event: None, forecasts=kept).run()


def test_a_recovery_that_no_size_reaches_is_refused(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    found = Forecast(_probe(plan), 1.0, 0.9, 0.1, {_outer_of(plan).name: {"1": 0.3, "2": 0.05}}, 0.25)
    assert found.budget_for(plan.records, 0.9) < found.budget_for(plan.records, 0.94)
    with pytest.raises(BadOption, match="more than any size") as refused:
        found.budget_for(plan.records, 0.99)
    assert "0.9500" in refused.value.why


def _outer_of(plan: Plan) -> TensorRecord:
    return next(r for r in plan.records if is_outer(r))


def test_embeddings_take_their_share_of_a_size(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    costs = {"left out": 0.5, "1": 0.1, "2": 0.02, "3": 0.004, "4": 0.001, "whole": 0.0}
    outer = _outer_of(plan)
    found = Forecast(_probe(plan), 1.0, 0.9, 0.1, {outer.name: costs}, 0.25)
    points = found.points(plan.records)
    assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(points)) and points[-1][1] == pytest.approx(0.0)
    ways = []
    for budget, kl in points[::max(1, len(points) // 12)]:
        chosen = found.allocate(plan.records, budget + 200)
        assert weights_bytes(chosen) <= budget + 200
        assert found.expected(plan.records, chosen) == pytest.approx(kl, rel=0.2, abs=1e-3)
        record = next(r for r in chosen if r.name == outer.name)
        ways.append(next(way for way in WAYS if stored(outer, way) == record))
    assert [WAYS.index(w) for w in ways] == sorted(WAYS.index(w) for w in ways) and {"left out", "whole"} < set(ways)
    with pytest.raises(BadOption, match="too little"):
        found.allocate(plan.records, 1000)


def test_new_rows_of_an_embedding_are_never_left_out(tmp_path: Path) -> None:
    record = _outer_of(_plan(tmp_path))
    longer = msgspec.structs.replace(record, shape=(record.shape[0] + 2, record.shape[1]))
    assert ways_of(record) == WAYS and ways_of(longer) == WAYS[1:]


@pytest.mark.usefixtures("few_ways")
def test_a_refused_size_leaves_nothing_in_the_way(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer)
    with pytest.raises(BadOption, match="too little"):
        _run(tmp_path, base, tuned, budget="5000x")
    assert not (tmp_path / "delta.job").exists() and not (tmp_path / "delta").exists()


def test_no_method_takes_more_than_the_whole_matrix(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    chosen = uniform(plan.records, "deltamix-h", plan.full_bytes * 2)
    for before, after in zip(plan.records, chosen, strict=True):
        assert record_bytes(after) <= record_bytes(msgspec.structs.replace(before, codec="full", slices=(), exponents=()))


def test_a_damaged_forecast_is_as_good_as_none(tmp_path: Path) -> None:
    found = Forecast(Probe({"a": 1.0}, {"a": 0.5}, {"q": {"x@1": {3: 0.5}}}), 1.0, 0.9, 0.1, {}, 0.3)
    keep_forecast(tmp_path, "k", found)
    assert load_forecast(tmp_path, "k") == found
    whole = (tmp_path / "k.json").read_bytes()
    (tmp_path / "k.json").write_bytes(whole.replace(b"0.9", b"0.8"))
    assert load_forecast(tmp_path, "k") is None
    (tmp_path / "k.json").write_bytes(b'{"probe": 3')
    assert load_forecast(tmp_path, "k") is None and load_forecast(None, "k") is None


def test_the_law_goes_through_both_measured_points() -> None:
    found = Forecast(Probe({}, {}, {}), 1.0, 0.8, 0.05, {}, 0.25)
    assert found.kl(1.0) == pytest.approx(0.8) and found.kl(0.25) == pytest.approx(0.05) and found.kl(0.0) == 0.0
    assert Forecast(Probe({}, {}, {}), 1.0, 0.8, 0.9, {}, 0.25).power == 1.0      # references that help nothing say nothing


@pytest.mark.parametrize(("settings", "words"), [
    ({"budget": "9x", "quality": "0.9"}, "A size and a fidelity"), ({"recipe": "paper", "budget": "9x"}, "has one size"),
    ({"recipe": "deltamix", "quality": "0.9"}, "takes a size"), ({"budget": "ten"}, "is no size"),
    ({"quality": "1.5"}, "is no recovery"), ({"quality": "1"}, "no recovery that can be asked for")])
def test_senseless_requests_are_refused_at_once(settings: dict[str, str], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        msgspec.convert({"base": "b", "fine_tuned": "f", "output": "o", **settings}, Request).options()


def test_records_name_what_was_left_out(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    found = _probe(plan)
    rest = {name: 0.0 for name in list(found.own)[1:]}
    chosen = allocate(plan.records, Probe({**found.own, **rest}, found.reference, found.shares), int(plan.weights_bytes * 0.6))
    left: list[TensorRecord] = [b for a, b in zip(plan.records, chosen, strict=True) if is_item(a) and b.codec == "same"]
    assert left and all(r.note.startswith("Left out") for r in left)


def test_what_a_fidelity_comes_to_is_what_its_plan_keeps(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    costs = {"left out": 0.5, "1": 0.1, "2": 0.02, "3": 0.004, "whole": 0.0, "4": float("inf")}
    found = Forecast(_probe(plan), 1.0, 0.9, 0.1, {_outer_of(plan).name: costs}, 0.25)
    for quality in (0.001, 0.02, 0.1, 0.5, 0.9, 0.999):
        chosen = found.allocate(plan.records, found.budget_for(plan.records, quality))
        assert 0 <= found.expected(plan.records, chosen) <= 1 - quality + 1e-12
    assert max(kl for _, kl in found.points(plan.records)) <= 1.0


def test_ways_that_nothing_is_known_of_are_not_chosen(tmp_path: Path) -> None:
    plan = _plan(tmp_path)
    for costs in ({}, {"in gold": 0.1}):
        found = Forecast(_probe(plan), 1.0, 0.9, 0.1, {_outer_of(plan).name: costs}, 0.25)
        assert _outer_of(plan) in found.allocate(plan.records, plan.weights_bytes)


@pytest.mark.usefixtures("few_ways")
def test_a_job_goes_on_by_the_methods_that_it_began_with(tmp_path: Path, tokenizer: PreTrainedTokenizerFast,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = make_pair(tmp_path, "llama", tokenizer, num_hidden_layers=1)
    asked = _request(tmp_path, base, tuned, "stopped", budget="9x")
    steps: list[AnyEvent] = []
    with pytest.raises(Cancelled):
        Job(asked, steps.append, lambda: sum(isinstance(e, LayerFitted) for e in steps) > 2).run()
    monkeypatch.setattr("core.budget_stage.WAYS", WAYS[1:])          # as a later version might
    with pytest.raises(JobMismatch, match="methods"):
        Job(asked, lambda event: None).run()

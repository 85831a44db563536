"""What an error in one matrix is said to cost at the end of the model, against the KL that it is seen to cost there.

Each matrix of some blocks is stored in one bit per weight, all others being the fine-tune's, and the KL to the fine-tune is
measured on text that nothing else has seen. What counts for a budget is how evenly said and measured go together: the standard
deviation of log(measured / said). Two things are judged: the measure itself (`core.sensitivity`), told the very error, beside
one that squares every token's part for itself; and what the probe foretells (`core.probe`), which knows neither the block nor
the error, beside what leaving the change out costs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_methods import gather, per_axis
from tests.benchmarks.pairs import real_pairs

BLOCKS = (1, 10, 19, 28)
"""None of those that the probe learns at."""
SAMPLES, JUDGED, MEASURED, LENGTH = 16, 6, 4, 256
METHOD = "deltamix-h"


def errors_of(base: Path, tuned: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """({tensor: error of signs, exact scales, the better axis}, {tensor: error of `METHOD` in one bit}), (out, in) BF16."""
    import msgspec
    import torch

    from core.checkpoint import open_checkpoint
    from core.codecs import CODECS
    from core.codecs.contract import logical
    from core.methods import METHODS
    from core.plan import PlanOptions, make_plan
    from core.probe import Candidate, nbytes_for
    signs: dict[str, Any] = {}
    mixed: dict[str, Any] = {}
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        records = {r.name: r for r in make_plan(a, b, PlanOptions()).records}
        called = {f"{r.kind}{r.block}": n for n, r in records.items()}
        for label, seen in gather(base, tuned, BLOCKS):
            name = called[label]
            change, record = seen.change, records[name]
            signs[name] = (change - per_axis(seen)[0]).bfloat16()
            planned = METHODS[METHOD].plan(record, nbytes_for(record, Candidate(METHOD, 1)))
            assert planned is not None
            learnt, stored = METHODS[METHOD].fit(planned, seen)
            # A base of zeros in FP32 gives the bare change back, without the rounding of the sum.
            bare = CODECS[learnt.codec].add(msgspec.structs.replace(learnt, dtype="F32", base_dtype="F32"), stored,
                                            torch.zeros(record.base_shape))
            mixed[name] = (change - logical(record, bare)).bfloat16()
    return signs, mixed


def said_and_measured(base: Path, tuned: Path) -> dict[str, dict[str, dict[str, float]]]:
    """{signs | mixed: {kl | row | token | probe | own: {tensor: nats per token}}}."""
    import torch

    from core.budget import is_item
    from core.calibration import load_tokenizer, split_samples
    from core.checkpoint import open_checkpoint
    from core.plan import PlanOptions, make_plan
    from core.probe import Candidate, probe, share_between, sizes_at
    from core.sensitivity import Slope, watch_gradients
    from core.variant import Variant
    from core.weights import StagedModel, TensorWeights
    device = torch.device("cpu")
    errors = dict(zip(("signs", "mixed"), errors_of(base, tuned), strict=True))
    found: dict[str, dict[str, dict[str, float]]] = {sort: {} for sort in errors}
    with open_checkpoint(base) as a, open_checkpoint(tuned) as b:
        model = StagedModel.of(b)
        variant, weights = Variant(a, b, make_plan(a, b, PlanOptions()).records), TensorWeights(model, b.view, device)
        parts = split_samples("auto", load_tokenizer(b.folder), counts={"fit": SAMPLES, "judge": JUDGED, "measure": MEASURED},
                              sequence_length=LENGTH, seed=0).parts
        places = {(block, p.parameter.removeprefix(model.skeleton.prefix(block))): p.tensor
                  for block in BLOCKS for p in model.by_stage[block]}

        def seen(block: int, parameter: str, expert: int | None, slope: Slope) -> None:
            name = places.get((block, parameter), "")
            for sort, by_name in errors.items():
                if name not in by_name:
                    continue
                error = by_name[name].float()
                squares = (slope.gradients.square().sum(1) * (slope.inputs @ error.T).square().sum(1)).sum() / len(error)
                for formula, cost in (("row", slope.cost(error)), ("token", 0.5 * float(squares))):
                    sums = found[sort].setdefault(formula, {})
                    sums[name] = sums.get(name, 0.0) + cost / parts["judge"].numel()
        watch_gradients(model, weights, parts["judge"].long(), device, seen)
        way = Candidate(METHOD, 1)
        names = [n for n, r in variant.records.items() if is_item(r)]
        told, _ = probe(model, variant, weights, parts["fit"].long(), device, names, [way])
        records = {n: variant.records[n] for n in errors["mixed"]}
        shares = {n: share_between(sizes_at(told, r.kind, way.method, r.block or 0), way.bits) for n, r in records.items()}
        found["mixed"]["probe"] = {n: told.reference[n] * s for n, s in shares.items() if s is not None}
        found["mixed"]["own"] = {n: told.own[n] for n in shares}
        for sort, by_name in errors.items():
            found[sort]["kl"] = measured(model, weights, parts["measure"].long(), by_name, variant.records)
    return found


def measured(model: Any, weights: Any, rows: Any, errors: Mapping[str, Any], records: Mapping[str, Any]) -> dict[str, float]:
    """{tensor: KL to the fine-tune, nats per token, with this tensor's error alone}, over `rows` (samples, tokens)."""
    import torch

    from core.codecs.contract import logical
    from core.skeleton import OUTER
    skeleton, found = model.skeleton, {}
    with torch.no_grad():
        outer = weights.stage(OUTER)
        prologue = skeleton.prologue(outer, rows)
        states = [prologue.hidden]
        for block in range(skeleton.depth):
            states.append(skeleton.run_block(block, weights.stage(block), states[-1], prologue.calls[block]))
        wanted = skeleton.epilogue(outer, rows, states[-1]).float().log_softmax(-1)
        for block in BLOCKS:
            for place in model.by_stage[block]:
                if place.tensor not in errors:
                    continue
                parameters = dict(weights.stage(block))
                key = place.parameter.removeprefix(skeleton.prefix(block))
                parameters[key] = parameters[key] - logical(records[place.tensor], errors[place.tensor].float())
                hidden = skeleton.run_block(block, parameters, states[block], prologue.calls[block])
                for later in range(block + 1, skeleton.depth):
                    hidden = skeleton.run_block(later, weights.stage(later), hidden, prologue.calls[later])
                logits = skeleton.epilogue(outer, rows, hidden).float().log_softmax(-1)
                found[place.tensor] = float((wanted.exp() * (wanted - logits)).sum(-1).mean(dtype=torch.float64))
    return found


def spread(found: Mapping[str, Mapping[str, float]], said: str, only: Sequence[str] = ()) -> float:
    """Standard deviation of log(measured / said); `said` "" says nothing. `only`: tensors whose name contains one of these."""
    kl, by = found["kl"], found.get(said)
    return statistics.pstdev(math.log(v / (by[n] if by else 1.0)) for n, v in kl.items()
                             if v > 0 and (not by or by.get(n, 0) > 0) and (not only or any(o in n for o in only)))


def run() -> list[dict[str, Any]]:
    """Two figures per pair."""
    results = []
    for name, (base, tuned) in real_pairs().items():
        found = said_and_measured(base, tuned)
        signs, mixed = found["signs"], found["mixed"]
        about = f"{name}: log of the KL measured over that said, {len(signs['kl'])} matrices in one bit"
        results.append({"name": f"{about} of per-axis signs, the error known", "unit": "standard deviation",
                        "value": round(spread(signs, "row"), 2), "reference":
                        f"token by token {spread(signs, 'token'):.2f}, by nothing {spread(signs, ''):.2f}",
                        "goal": round(spread(signs, "token"), 2), "better": "lower"})
        results.append({"name": f"{about} of {METHOD}, foretold by the probe", "unit": "standard deviation",
                        "value": round(spread(mixed, "probe"), 2), "reference":
                        f"MLP alone {spread(mixed, 'probe', ('mlp',)):.2f}; the error known {spread(mixed, 'row'):.2f}, token by "
                        f"token {spread(mixed, 'token'):.2f}; by what leaving it out costs {spread(mixed, 'own'):.2f}, by "
                        f"nothing {spread(mixed, ''):.2f}",
                        "goal": round(spread(mixed, "own") / 2, 2), "better": "lower"})
    return results


if __name__ == "__main__":
    for result in run():
        print(f"{result['name']}: {result['value']:.2f} ({result['reference']})", flush=True)

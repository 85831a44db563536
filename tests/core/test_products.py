"""Products in bf16: the same values and gradients as under autocast, without those that nobody reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from core.products import Narrow, narrow_products, narrowed, only_added
from core.stream import Remembered, _Recall

CPU = torch.device("cpu")


class Layer(nn.Module):
    """A residual layer of two products; with `reads`, what leaves it is more than a sum."""

    def __init__(self, reads: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.reads = nn.Linear(8, 24), nn.Linear(24, 8, bias=False), reads

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(F.silu(self.up(x)))
        return x + (y.tanh() if self.reads else y)


def run(layer: Layer, unread: str = "", autocast: bool = False) -> tuple[dict[str, Tensor], Tensor, Narrow | None]:
    """Gradients of parameters and input, what came out, and the mode."""
    leaves = {k: v.detach().clone().requires_grad_(True) for k, v in narrowed(dict(layer.named_parameters())).items()}
    x = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            out, mode = torch.func.functional_call(layer, leaves, (x,)), None
    else:
        with narrow_products(CPU, True, leaves[unread] if unread else None) as mode:
            out = torch.func.functional_call(layer, leaves, (x,))
    out.float().backward(torch.ones_like(out))
    return {k: v.grad for k, v in {"x": x, **leaves}.items() if v.grad is not None}, out.detach(), mode


def test_values_and_gradients_are_autocasts() -> None:
    (found, out, _), (wanted, whole, _) = run(Layer()), run(Layer(), autocast=True)
    torch.testing.assert_close(out, whole)
    assert found["down.weight"].dtype == torch.bfloat16
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name].float(), gradient.float(), rtol=0.03, atol=0.03)


def test_a_product_that_is_only_added_need_not_be_made() -> None:
    wanted, _, mode = run(Layer())
    found, out, _ = run(Layer(), "down.weight")
    assert mode is not None and mode.last is not None
    assert bool(out.isnan().all())
    for name, gradient in wanted.items():
        assert torch.equal(found[name], gradient), name
    found, _, _ = run(Layer(reads=True), "down.weight")
    assert not bool(found["x"].isfinite().all())       # which shows that it was needed


def test_only_sums_count_as_added() -> None:
    for reads in (False, True):
        layer = Layer(reads)
        with narrow_products(CPU) as mode:
            out = torch.func.functional_call(layer, narrowed(dict(layer.named_parameters())), (torch.randn(2, 8),))
        assert mode is not None and mode.last is not None
        assert only_added(out, mode.last[1]) == (not reads)


def test_without_narrow_products_nothing_changes() -> None:
    with narrow_products(CPU, False) as mode:
        assert mode is None
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_results_are_remembered_while_nothing_before_them_may_change() -> None:
    weights = {"a": torch.randn(4, 4), "b": torch.randn(4, 4), "c": torch.randn(4, 4)}

    def net(x: Tensor, p: dict[str, Tensor]) -> Tensor:
        y = F.linear(x, p["a"])
        y += x                                         # a model may well write into a result
        return F.linear(F.linear(y, p["b"]), p["c"])
    x = torch.randn(3, 4)
    wanted = net(x, weights)
    results: list[dict[tuple[str, int], Tensor]] = [{}]
    for final in ({"a", "c"}, {"a", "c"}, {"a", "b", "c"}, {"a", "b", "c"}):
        parameters = Remembered(weights, frozenset(final), results)
        with _Recall(parameters, 0):
            assert torch.equal(net(x, parameters), wanted)
        assert {name for name, _ in results[0]} == ({"a"} if "b" not in final else {"a", "b", "c"})

"""Linear layers by oneDNN: values and gradients are those of torch's own."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from rlcore import networks
from rlcore.networks import linear as module
from rlcore.networks.linear import WORTHWHILE, Linear, batched_linear, linear

BY_ONEDNN = pytest.mark.skipif(not module.AVAILABLE, reason="this processor has no use for it")


def large(*, num: int | None = None):
    """x, weight and bias of a layer that is worthwhile, in float64; of N layers with N in front."""
    torch.manual_seed(1)
    front = () if num is None else (num,)
    B, K, M = 100, 290, 310
    assert B * K * M >= WORTHWHILE
    weight = (M, K) if num is None else (num, K, M)
    bias = (M,) if num is None else (num, 1, M)
    return [torch.randn(*shape, dtype=torch.float64) for shape in ((*front, B, K), weight, bias)]


def close(here, expected):
    assert here.dtype == torch.float32
    torch.testing.assert_close(here.double(), expected, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize(("ours", "theirs", "num"), [
    (linear, nn.functional.linear, None),
    (batched_linear, lambda x, w, b: torch.baddbmm(b, x, w), 2),
])  # fmt: skip
def test_values_and_gradients_are_those_in_float64(ours, theirs, num):
    exact = [x.requires_grad_() for x in large(num=num)]
    rounded = [x.detach().float().requires_grad_() for x in exact]
    y, expected = ours(*rounded), theirs(*exact)
    close(y, expected)
    weights = torch.randn_like(expected)
    (y * weights.float()).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(rounded, exact, strict=True):
        close(one.grad, other.grad)
    with torch.no_grad():
        close(ours(*rounded), expected)


@BY_ONEDNN
def test_large_products_are_onednns_and_others_torchs():
    x, weight, bias = (x.float() for x in large())
    assert torch.equal(linear(x, weight, bias), torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], ""))
    assert torch.equal(linear(x[:8], weight, bias), nn.functional.linear(x[:8], weight, bias))
    assert torch.equal(linear(x.double(), weight.double()), x.double() @ weight.double().T)
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16


def test_one_output_of_each_layer():
    x, weight, bias = (x.float() for x in large(num=3))
    torch.testing.assert_close(
        batched_linear(x, weight[:, :, :1], bias[:, :, :1]),
        torch.baddbmm(bias, x, weight)[:, :, :1],
        rtol=1e-4,
        atol=1e-4,
    )


def test_gradients_that_nobody_needs_are_not_computed():
    x, weight, bias = (x.float() for x in large())
    linear(x.requires_grad_(), weight, bias).sum().backward()
    assert x.grad is not None
    assert weight.grad is None
    layer = Linear(290, 310)
    layer(x.detach()).sum().backward()
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None


def test_a_gradient_has_a_gradient():
    exact = [x.requires_grad_() for x in large()]
    rounded = [x.detach().float().requires_grad_() for x in exact]

    def of_gradient(layer, x, weight, bias):
        slope = torch.autograd.grad(layer(x, weight, bias).square().sum(), weight, create_graph=True)[0]
        return torch.autograd.grad(slope.square().mean(), (x, weight))

    here, expected = of_gradient(linear, *rounded), of_gradient(nn.functional.linear, *exact)
    for one, other in zip(here, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_transforms_and_export_see_torchs_own_layer():
    x, weight, bias = (x.float() for x in large(num=2))
    stacked = torch.func.vmap(linear)(x, weight.mT, bias.squeeze(1))
    torch.testing.assert_close(stacked, batched_linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    layer = Linear(290, 310).requires_grad_(False)
    network = torch.nn.Sequential(layer, networks.build("mlp", (310,), 300, hidden=[300]).requires_grad_(False))
    program = torch.export.export(network, (x[0],), dynamic_shapes=({0: torch.export.Dim("rows")},))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    for rows in (x[0], x.flatten(0, 1)):
        torch.testing.assert_close(program.module()(rows), network(rows), rtol=1e-4, atol=1e-4)
    traced = torch.jit.trace(network, (x[0],))
    torch.testing.assert_close(traced(x[0]), network(x[0]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grad", [False, True])
def test_derivatives_in_forward_mode_are_not_lost(grad):
    x, weight, bias = (x.float() for x in large())
    direction = torch.randn_like(x)
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        y = linear(forward_ad.make_dual(x, direction), weight, bias)
        tangent = forward_ad.unpack_dual(y).tangent
    torch.testing.assert_close(tangent, direction @ weight.T, rtol=1e-3, atol=1e-3)


def test_any_layout_of_a_bias_is_read_right():
    x, weight, _ = (x.float() for x in large())
    for bias in (torch.randn(310, 3)[:, 1], torch.randn(1).expand(310), torch.randn(1), torch.randn(620)[::2]):
        torch.testing.assert_close(linear(x, weight, bias), nn.functional.linear(x, weight, bias), rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        linear(torch.randn(100, 320), weight)

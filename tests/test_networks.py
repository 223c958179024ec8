import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rlcore import InputError, networks
from rlcore.networks.binarized import BinarizedMLP, PackedMLP, Sign

IMAGE = (1, 28, 28)


def size(network):
    return sum(param.numel() for param in network.parameters())


def multiply_adds(network, in_shape):
    with FlopCounterMode(display=False) as counter:
        network.eval()(torch.zeros(1, *in_shape))
    return counter.get_total_flops() // 2


def test_lenet_has_its_61684_parameters_and_depthwise_far_fewer():
    lenet, depthwise = networks.build("lenet", IMAGE, 10), networks.build("depthwise_cnn", IMAGE, 10)
    assert size(lenet) == 61_684
    assert size(lenet) < 251_060 / 4  # day 4's network
    assert multiply_adds(lenet, IMAGE) == 416_520
    assert size(depthwise) < 6_000
    assert multiply_adds(depthwise, IMAGE) < 416_520


def test_lenet_drops_channels_of_the_second_convolution():
    network = networks.build("lenet", IMAGE, 10, channels=[3, 8], channel_dropout=0.5)
    seen = []
    network.hidden[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    network(torch.rand(16, *IMAGE) + 1)
    dropped = (seen[0].unflatten(1, (8, 25)) == 0).all(2)
    network.eval()(torch.rand(16, *IMAGE) + 1)
    kept = (seen[1].unflatten(1, (8, 25)) == 0).all(2)
    assert dropped.sum() > kept.sum() + 20  # of 128 channels, about half


def test_parameters_of_the_course():
    for hidden, expected in (([128], 513), ([512], 2_049), ([40, 25, 10], 1_416)):
        assert size(networks.build("mlp", (2,), 1, hidden=hidden)) == expected
    assert size(networks.build("mlp", IMAGE, 10, hidden=[300, 50])) == 251_060


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("mlp", {"batch_norm": True, "dropout": 0.3}),
        ("lenet", {"batch_norm": True, "dropout": 0.2}),
        ("lenet", {"channels": [4, 8], "padding": [0, 0], "channel_dropout": 0.5}),
        ("depthwise_cnn", {}),
        ("binarized_mlp", {}),
    ],
)
def test_a_row_alone_is_that_row_in_its_batch(name, settings):
    torch.manual_seed(1)
    network = networks.build(name, IMAGE, 10, **settings)
    x = torch.rand(6, *IMAGE)
    network(x)  # moves the running statistics
    network.eval()
    torch.testing.assert_close(network(x)[2:3], network(x[2:3]), rtol=1e-4, atol=1e-5)
    body = networks.build(name, IMAGE, None, **settings)
    assert body(x).shape == (6, body.num_features)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("lenet", IMAGE),
        ("depthwise_cnn", IMAGE),
        ("policy_value_resnet", (2, 6, 7)),
        ("nature_cnn", (4, 36, 36)),
        ("impala_cnn", (3, 20, 20)),
        ("cnn", (4, 10, 10)),
    ],
)
def test_channels_last_in_memory_survive_saving_and_change_no_answer(name, shape):
    torch.manual_seed(1)
    saved = networks.build(name, shape, 10).state_dict()
    network = networks.build(name, shape, 10)
    network.load_state_dict({key: value.contiguous() for key, value in saved.items()})
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in network.parameters() if p.dim() == 4)
    first = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    x = torch.rand(6, *shape)
    torch.testing.assert_close(network(x), first(x), rtol=1e-4, atol=1e-5)


def test_networks_refuse_inputs_that_they_cannot_read():
    with pytest.raises(InputError, match=r"lenet reads images \(channels, height, width\), got inputs of shape \(4,\)"):
        networks.build("lenet", (4,), 10)
    networks.build("impala_cnn", (32, 32, 3), 10)  # what the dimensions mean is known where observations come from
    with pytest.raises(InputError, match=r"cnn: a kernel of 5 does not fit 4 x 6 pixels; lower network.kernel"):
        networks.build("cnn", (1, 8, 10), 10, kernel=5, channels=[4, 4])
    with pytest.raises(InputError, match=r"shape \(1, 8, 8\) are too small; network\.padding=\[2, 2\]"):
        networks.build("lenet", (1, 8, 8), 10)
    assert networks.build("lenet", (3, 8, 8), 10, padding=[2, 2])(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_convolutions_and_a_linear_layer(layer_norm):
    torch.manual_seed(1)
    network = networks.build("cnn", (2, 9, 7), 3, channels=[4, 5], stride=2, features=6, layer_norm=layer_norm)
    x = torch.randn(8, 2, 9, 7)
    h = x
    layers = [layer for layer in network.layers if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert [tuple(layer.weight.shape) for layer in layers] == [(4, 2, 3, 3), (5, 4, 3, 3), (6, 5 * 1 * 1)]
    for layer in layers:
        h = layer(h.flatten(1) if isinstance(layer, torch.nn.Linear) else h)
        if layer_norm:
            h = torch.nn.functional.layer_norm(h, h.shape[1:])
        h = h.relu()
    torch.testing.assert_close(network(x), network.output(h), rtol=1e-4, atol=1e-5)
    assert network(x).shape == (8, 3)


@pytest.mark.parametrize(
    ("init", "gain", "std"),
    [("normal", 0.01, 0.01), ("lecun", 1, 400**-0.5), ("xavier", 2, 2 * (2 / 700) ** 0.5), ("he", 1, (2 / 400) ** 0.5)],
)
def test_initial_weights_have_their_standard_deviation(init, gain, std):
    torch.manual_seed(1)
    layer = networks.build("mlp", (400,), None, hidden=[300], init=init, gain=gain, bias_std=0.5).hidden[0]
    assert layer.weight.std().item() == pytest.approx(std, rel=0.02)
    assert layer.bias.std().item() == pytest.approx(0.5, rel=0.15)
    for kind, value in (("zeros", 0.0), ("constant", 0.25)):
        layer = networks.build("mlp", (4,), None, hidden=[3], init=kind, gain=0.25).hidden[0]
        assert (layer.weight == value).all()
    orthogonal = networks.build("mlp", (40,), None, hidden=[30], init="orthogonal").hidden[0].weight
    torch.testing.assert_close(orthogonal @ orthogonal.T, 2 * torch.eye(30), atol=1e-4, rtol=0)


def test_batch_norm_takes_the_biases_and_dropout_stands_where_asked():
    network = networks.build("mlp", (4,), 2, hidden=[5, 6], batch_norm=True, dropout=[0, 0.1])
    assert all(layer.bias is None for layer in network.hidden)
    kinds = [[type(part).__name__ for part in after] for after in network.after]
    assert kinds == [["BatchNorm1d", "Activate"], ["BatchNorm1d", "Activate", "Dropout"]]
    for bad in ({"dropout": 1.0}, {"dropout": [0.1]}, {"init": "torch", "bias_std": 1.0}):
        with pytest.raises(ValueError):  # noqa: PT011 (pydantic's)
            networks.build("mlp", (4,), 2, hidden=[5, 6], **bad)


# Binarized


def test_sign_and_its_straight_through_gradient():
    x = torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.9, 1.0, 5.0], requires_grad=True)
    y = Sign.apply(x)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (y * torch.arange(7)).sum().backward()
    assert x.grad.tolist() == [0, 1, 2, 3, 4, 5, 0]


def test_the_binarized_network_computes_with_signs():
    torch.manual_seed(1)
    network = BinarizedMLP((6,), 3, BinarizedMLP.Settings(hidden=[5])).eval()
    x = torch.randn(4, 6)
    w1, w2 = (torch.where(layer.weight >= 0, 1.0, -1.0) for layer in network.layers)
    hidden = torch.where(x @ w1.T >= 0, 1.0, -1.0)  # batch norm is the identity, but for its eps
    torch.testing.assert_close(network(x), hidden @ w2.T / math.sqrt(1 + 1e-5))
    assert all(param.ndim > 1 for param in network.layers.parameters())  # no biases


def test_binarized_weights_learn_and_stay_within_one():
    torch.manual_seed(1)
    network = BinarizedMLP((6,), 2, BinarizedMLP.Settings(hidden=[32]))
    x = torch.randn(200, 6)
    target = (x[:, 0] > 0).long()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        loss = nn.functional.cross_entropy(network(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    network(x)
    assert all(layer.weight.abs().max() <= 1 for layer in network.layers)


@pytest.mark.parametrize("hidden", [[20], [37, 11], [64, 8, 13]])
def test_the_packed_form_answers_bit_for_bit_as_the_network(hidden):
    torch.manual_seed(len(hidden))
    network = BinarizedMLP((1, 7, 9), 10, BinarizedMLP.Settings(hidden=hidden))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (300, 1, 7, 9)).astype(np.uint8)
    x = torch.from_numpy(images).float()
    with torch.no_grad():
        for norm in network.norms:  # falling, flat and rising units, with whole thresholds among them
            norm.weight.copy_(torch.randint(-2, 3, norm.weight.shape).float())
            norm.bias.copy_(torch.randint(-1, 2, norm.bias.shape).float())
        for _ in range(30):
            network(x)
    network.eval()
    packed = PackedMLP(network)
    with torch.no_grad():
        body = x.flatten(1)
        for layer, norm in zip(list(network.layers)[:-1], list(network.norms)[:-1], strict=True):
            body = Sign.apply(norm(layer(body)))
        expected = network(x)
    assert body.abs().eq(1).all()
    scores = packed(images)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-4)
    top = expected.topk(2).values
    clear = (top[:, 0] > top[:, 1]).numpy()  # a tie may be broken either way
    assert clear.sum() > 100
    assert (scores.argmax(1) == expected.argmax(1).numpy())[clear].all()
    assert packed.num_weights == sum(layer.weight.numel() for layer in network.layers)
    assert packed.num_bytes < 4 * packed.num_weights

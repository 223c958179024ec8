"""What the course computes by hand on days 1, 3 and 5."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.nn import functional as F

from rlcore.agents.supervised import Supervised
from rlcore.supervised.datasets import from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.trainer import Trainer


def descent(gamma, num_steps):
    """x_0 = 0, x_1, ... of gradient descent on (x - 3)^2: one weight, one example whose input is 1 and target 3."""
    data = from_arrays(torch.ones(1, 1, dtype=torch.float64), torch.tensor([3.0]))
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=1, action="values", test_fraction=0), dataset=data)
    network = {"name": "mlp", "hidden": [], "bias": False, "init": "zeros"}
    agent = Supervised(env, Supervised.Settings(network=network, optimizer="sgd", learning_rate=gamma))
    trainer, path = Trainer(agent, env, total_steps=num_steps), [0.0]
    while not trainer.finished:
        trainer.update()
        path.append(next(agent.parameters()).item())
    return path


def test_day_1_descent_on_a_parabola():
    path = descent(0.4, 13)
    assert path[:4] == pytest.approx([0, 2.4, 2.88, 2.976], abs=1e-6)
    assert path[9] == pytest.approx(2.999998464, abs=1e-6)
    assert path == pytest.approx([3 * (1 - 0.2**t) for t in range(14)], abs=1e-6)


@pytest.mark.parametrize(("gamma", "after_20"), [(0.01, 3 * (1 - 0.98**20)), (0.1, 3 * (1 - 0.8**20))])
def test_day_1_small_steps_come_nearer_slowly(gamma, after_20):
    assert descent(gamma, 20)[20] == pytest.approx(after_20, abs=1e-5)


def test_day_1_steps_that_are_too_large_diverge():
    errors = [abs(x - 3) for x in descent(1.1, 20)]
    assert errors == sorted(errors)
    assert errors[20] == pytest.approx(3 * 1.2**20, rel=1e-4)


NEURON = tuple(torch.tensor(value, dtype=torch.float64) for value in (1.0, 2.0, -3.0, -1.0, 3.0))
"""a, b, c, x, y of day 3."""
GRADIENT = [-0.1049935854, 0.3149807562, 0.1049935854, 0.1049935854, 0.2099871708]


def neuron(a, b, c, x, y):
    return torch.sigmoid(a * x + b * y + c)


def by_reverse_mode():
    inputs = [value.clone().requires_grad_() for value in NEURON]
    return torch.autograd.grad(neuron(*inputs), inputs)


def by_dual_numbers():
    slopes = []
    for i in range(5):
        with forward_ad.dual_level():
            duals = [forward_ad.make_dual(v, torch.ones_like(v) * (i == j)) for j, v in enumerate(NEURON)]
            slopes.append(forward_ad.unpack_dual(neuron(*duals)).tangent)
    return slopes


def by_torch_func():
    return torch.func.jacfwd(neuron, argnums=(0, 1, 2, 3, 4))(*NEURON)


def by_finite_differences(h=1e-5):
    def moved(i, by):
        return neuron(*(value + by * (i == j) for j, value in enumerate(NEURON)))

    return [(moved(i, h) - moved(i, -h)) / (2 * h) for i in range(5)]


@pytest.mark.parametrize("gradient", [by_reverse_mode, by_dual_numbers, by_torch_func, by_finite_differences])
def test_day_3_the_neurons_five_gradients(gradient):
    assert neuron(*NEURON).item() == pytest.approx(0.8807970779778823, abs=1e-15)
    assert [float(slope) for slope in gradient()] == pytest.approx(GRADIENT, abs=1e-9)


def correlate(image, kernel):
    """Same size, zeros outside; what neural networks call a convolution."""
    weight = torch.tensor(kernel, dtype=torch.float64)[None, None]
    return F.conv2d(image[None, None], weight, padding=len(kernel) // 2)[0, 0]


def test_day_5_kernels_on_an_image():
    image = torch.zeros(7, 8, dtype=torch.float64)
    image[:, 4:] = 1  # dark on the left, bright on the right
    assert torch.equal(correlate(image, [[0, 0, 0], [0, 1, 0], [0, 0, 0]]), image)
    blurred = correlate(image, [[1 / 9] * 3] * 3)
    assert blurred[3].tolist() == pytest.approx([0, 0, 0, 1 / 3, 2 / 3, 1, 1, 2 / 3])
    edges = correlate(image, [[-1, -1, -1], [-1, 8, -1], [-1, -1, -1]])
    assert edges[3].tolist() == pytest.approx([0, 0, 0, -3, 3, 0, 0, 3])  # the last, against the zeros outside


def test_day_5_a_kernel_that_delays():
    signal = torch.tensor([1.0, 2, 5, 6, 2, -1, 3, 4])
    delayed = F.conv1d(signal[None, None], torch.tensor([[[1.0, 0, 0]]]), padding=1)
    assert delayed.flatten().tolist() == [0, 1, 2, 5, 6, 2, -1, 3]


def test_day_5_both_gradients_of_a_convolution_are_convolutions():
    x = torch.randn(1, 1, 9, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 1, 3, dtype=torch.float64, requires_grad=True)
    y = F.conv1d(x, w)
    g = torch.randn_like(y)
    grad_x, grad_w = torch.autograd.grad(y, (x, w), g)
    assert torch.allclose(grad_x, F.conv1d(g, w.flip(-1), padding=2))  # the gradient with the kernel turned round
    assert torch.allclose(grad_w, F.conv1d(x, g))  # the input with the gradient

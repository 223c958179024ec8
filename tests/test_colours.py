"""Colour images of 32 x 32 pixels, and codes that are images themselves: everything draws and counts them."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import rlcore
from rlcore import Trainer, check_agent
from rlcore.agents.autoencoder import AutoencoderAgent
from rlcore.agents.supervised import Supervised
from rlcore.errors import InputError
from rlcore.evaluation import ReportChoice
from rlcore.networks import Network, build
from rlcore.networks.autoencoder import Code, kl_from_standard_normal
from rlcore.supervised.datasets import Dataset, Split, load
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.supervised.reports.latent import encoded

ROOT = Path(__file__).parent.parent
REPORTS = {
    "elbo": {},
    "bound": {"k": [1, 4], "num": 6},
    "latent": {"num": 3, "side": 2},
    "inpainting": {"num": 2, "starts": 2, "steps": 2},
    "disentanglement": {"bins": 3},
    "projector": {"num": 5},
}


@rlcore.registry.networks.register("spatial_conv_vae")
class SpatialConvVAE(Network):
    """Convolutions to a code [2, H / 8, W / 8], and back."""

    def __init__(self, in_shape, out_features, settings):
        super().__init__()
        channels, height, width = in_shape
        self.num_features = 2 * (height // 8) * (width // 8)
        self.down, self.up = nn.Conv2d(channels, 4, 8, 8), nn.ConvTranspose2d(2, channels, 8, 8)

    def encode(self, x):
        return Code(*self.down(x).chunk(2, 1))

    def decode(self, z):
        return self.up(z)


@pytest.fixture(scope="module")
def few():
    """Sixty shapes."""
    data = load("shapes")
    train, test = (Split(*(x[:n] for x in split)) for n, split in ((60, data.train), (15, data.test)))
    return Dataset(train, test, data.classes)


def autoencoder(few, network, **settings):
    env = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=20, action="gaussian", std=0.2), dataset=few)
    torch.manual_seed(1)
    return env, AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate({"network": network, **settings}))


def told(name, agent, env, **settings):
    twin = env.evaluation(1)
    return ReportChoice.model_validate({"name": name, **settings}).make()(agent, twin, twin.score(agent, 1, 1))


def drawn(figure):
    """The picture of a figure's first panel, [H, W, C]."""
    return np.asarray(figure.axes[0].images[0].get_array())


def test_shapes_are_of_their_class_and_colours():
    data = load("shapes")
    images, targets = data.train
    assert (images.shape, images.dtype) == ((3000, 3, 32, 32), torch.uint8)
    assert torch.bincount(targets).tolist() == [1000] * 3
    inside = (images >= 100).all(1)
    assert torch.equal(inside.any(1).any(1), torch.ones(3000, dtype=torch.bool))
    filled = inside.sum((1, 2)) / (inside.any(1).sum(1) * inside.any(2).sum(1))  # the share of its frame
    means = [filled[targets == k].mean().item() for k in range(3)]
    assert means == pytest.approx([np.pi / 4, 1, 0.5], abs=0.06)
    assert torch.equal(load("shapes", seed=1).test.inputs, data.test.inputs)
    assert not torch.equal(load("shapes", seed=2).test.inputs, data.test.inputs)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 24)])
def test_the_convolutional_vae_gives_back_the_shape_of_its_images(shape):
    network, x = build("conv_vae", shape, latent=4), torch.rand(2, *shape)
    code = network.encode(x)
    assert code.mean.shape == (2, 4)
    assert network.decode(code.mean).shape == x.shape


def test_images_that_it_cannot_give_back_are_named():
    for shape in ((3, 30, 32), (3, 16, 16), (7,)):
        with pytest.raises(InputError, match="sides are multiples of 4, from 20 pixels on, got inputs of shape"):
            build("conv_vae", shape)


@pytest.mark.parametrize("network", ["spatial_conv_vae", "conv_vae"])
def test_every_report_of_an_autoencoder_is_in_colour(few, network):
    env, agent = autoencoder(few, {"name": network})
    check_agent(agent, env)
    before = told("elbo", agent, env).scalars["negative_elbo"]
    Trainer(agent, env, Trainer.Settings(epochs=3)).fit()
    reports = {name: told(name, agent, env, **settings) for name, settings in REPORTS.items()}
    assert reports["elbo"].scalars["negative_elbo"] < before
    for name in ("latent", "inpainting"):
        for key, figure in reports[name].figures.items():
            if key != "scatter":
                picture = drawn(figure)
                assert picture.shape[2] == 3, key
                assert (picture[..., 0] != picture[..., 1]).any(), key
    assert reports["projector"].embedding.images.shape == (5, 3, 32, 32)
    whole = drawn(reports["latent"].figures["reconstructions"])[1:33, 1:33]
    shown = env.evaluation(1).scaled(few.test.inputs[:1])[0].permute(1, 2, 0)
    assert np.allclose(whole, shown)


def test_the_kl_of_an_image_of_codes_is_told_coordinate_by_coordinate(few):
    env, agent = autoencoder(few, {"name": "spatial_conv_vae"})
    twin = env.evaluation(1)
    with torch.no_grad():
        kl = kl_from_standard_normal(encoded(agent, twin)).mean(0).flatten()
    assert len(kl) == agent.network.num_features == 2 * 4 * 4
    assert told("elbo", agent, env).scalars["kl"] == pytest.approx(kl.sum().item(), rel=1e-5)
    scalars = told("latent", agent, env, num=2).scalars
    assert [scalars[f"kl_{i}"] for i in range(len(kl))] == pytest.approx(kl.tolist(), rel=1e-5)


def test_samples_of_a_run_are_in_colour(few, workdir):
    from matplotlib.image import imread
    from test_autoencoder import run_cli

    rlcore.registry.datasets.register("few_shapes")(lambda data_dir, seed: few)
    short = ["env.dataset=few_shapes", "env.num_envs=20", "trainer.epochs=1", "trainer.reports=[]"]
    run_cli("train", "shapes_vae", *short, "agent.network={name: spatial_conv_vae}", "--run-dir", "run")
    run_cli("sample", "run", "--num", "4", "--out", "four.png")
    picture = imread("four.png")
    assert picture.shape[:2] == (2 * 33 + 1, 2 * 33 + 1)
    assert (picture[..., 0] != picture[..., 1]).any()


def test_lenet_reads_them_and_examples_are_drawn_in_colour(few):
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=20), dataset=few)
    torch.manual_seed(1)
    agent = Supervised(env, Supervised.Settings(network={"name": "lenet"}, learning_rate=5e-3))
    before = env.evaluation(1).score(agent, 1, 1).scalars["log_likelihood"]
    report = Trainer(agent, env, Trainer.Settings(epochs=20)).fit()
    assert report.scalars["log_likelihood"] > before + 0.1
    pictures = told("examples", agent, env, num=2).figures["examples"]
    image = few.test.inputs[0].permute(1, 2, 0).float()
    assert drawn(pictures).shape == (32, 32, 3)
    assert np.corrcoef(drawn(pictures).flatten(), image.flatten())[0, 1] == pytest.approx(1)
    assert "filters of (5, 5)" in told("filters", agent, env).text
    assert told("confusion", agent, env).figures


def test_the_recipe_for_cifar_makes_a_data_set_of_its_files(workdir):
    (code,) = [code for code in re.findall(r"```python\n(.*?)```", (ROOT / "docs/supervised.md").read_text(), re.DOTALL)
               if "cifar" in code]  # fmt: skip
    Path("cifar-10-batches-py").mkdir()
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        batch = {b"data": rng.integers(0, 256, (4, 3072), dtype=np.uint8), b"labels": [0, 1, 9, 3]}
        Path("cifar-10-batches-py", name).write_bytes(pickle.dumps(batch))
    exec(code, {})
    data = load("cifar10.npz")
    assert data.train.inputs.shape == (20, 3, 32, 32)
    assert len(data.test.targets) == 4
    assert len(data.classes) == 10
    first = pickle.loads(Path("cifar-10-batches-py/data_batch_1").read_bytes())[b"data"]
    assert data.train.inputs[1, 2, 0, 5].item() == first[1, 2048 + 5]
    env = SupervisedEnv(SupervisedEnv.Settings(dataset="cifar10.npz", num_envs=4))
    agent = Supervised(env, Supervised.Settings(network={"name": "lenet"}))
    assert agent.predict(data.test.inputs).action.shape == (4, 10)

import math
import shutil

import numpy as np
import pytest
import torch
from compare import same
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

import rlcore
from rlcore import InputError, Trainer, check_agent, check_environment
from rlcore.agents.autoencoder import AutoencoderAgent, draw
from rlcore.cli import app
from rlcore.evaluation import Report
from rlcore.networks import build
from rlcore.networks.autoencoder import VAE, Code, kl_from_standard_normal
from rlcore.run import Run
from rlcore.supervised.datasets import Dataset, Split, from_arrays, from_torch
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.supervised.reports.latent import MOST_COORDINATES
from rlcore.supervised.reports.likelihood import BoundReport, ELBOReport, log_weights


def examples(n=60, shape=(1, 4, 4), seed=0):
    """Chances in (0, 1) of two kinds of image."""
    rng = np.random.default_rng(seed)
    kinds = rng.random((2, *shape))
    targets = np.arange(n) % 2
    return from_arrays((kinds[targets] * rng.random((n, *shape))).astype(np.float32), targets)


def make(dataset=None, **settings):
    return ReconstructionEnv(ReconstructionEnv.Settings(**{"num_envs": 8, **settings}), dataset=dataset or examples())


def vae(env, name="vae", **settings):
    network = {"name": name, "latent": 2, "hidden": [16]}
    return AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate({"network": network, **settings}))


def told(report, env, agent, **settings):
    return report(report.Settings(**settings))(agent, env.evaluation(1), Report({}))


# The environment


def test_the_reward_is_the_log_likelihood_of_the_example_summed_over_pixels():
    logits, gaussian = torch.randn(8, 1, 4, 4), torch.randn(8, 1, 4, 4)
    env = make(binarize="dynamic")
    obs, _ = env.reset(seed=1)
    assert set(obs.unique().tolist()) == {0.0, 1.0}
    _, reward, terminated, truncated, _ = env.step(logits)
    torch.testing.assert_close(reward, Bernoulli(logits=logits).log_prob(obs).sum((1, 2, 3)))
    assert terminated.all()
    assert not truncated.any()
    env = make(action="gaussian", std=0.3)
    obs, _ = env.reset(seed=1)
    _, reward, *_ = env.step(gaussian)
    torch.testing.assert_close(reward, Normal(gaussian, 0.3).log_prob(obs).sum((1, 2, 3)))
    env = make(action="values")
    obs, _ = env.reset(seed=1)
    _, reward, *_ = env.step(gaussian)
    torch.testing.assert_close(reward, -(gaussian - obs).square().sum((1, 2, 3)))


def test_grey_pixels_have_a_cross_entropy_binary_ones_a_likelihood():
    binary = from_arrays(np.eye(4, dtype=np.uint8)[:, None, None] * 255, np.arange(4) % 2)
    for settings, dataset, unit, key in (
        ({}, None, "cross_entropy", "loss"),
        ({"binarize": "static"}, None, "log_likelihood", "negative_elbo"),
        ({"num_envs": 2, "test_fraction": 0}, binary, "log_likelihood", "negative_elbo"),
        ({"action": "values"}, None, "squared_error", "loss"),
        ({"action": "gaussian"}, None, "log_likelihood", "negative_elbo"),
    ):
        env = make(dataset, **settings)
        agent = vae(env)
        scalars = env.evaluation(1).score(agent, 1, seed=1).scalars
        assert list(scalars) == [unit] == [env.criterion]
        assert (scalars[unit] > 0) == (unit != "log_likelihood")
        assert list(told(ELBOReport, env, agent).scalars) == ["reconstruction", "kl", key]


def test_static_pixels_are_drawn_once_dynamic_ones_whenever_they_are_shown():
    rows = torch.arange(20)
    static, dynamic = make(binarize="static"), make(binarize="dynamic")
    assert torch.equal(static.inputs(rows), static.inputs(rows))
    assert torch.equal(static.inputs(rows), make(binarize="static").inputs(rows))
    assert not torch.equal(static.inputs(rows), make(binarize="static", data_seed=2).inputs(rows))
    assert not torch.equal(dynamic.inputs(rows), dynamic.inputs(rows))
    chances = make().inputs(rows)
    mean = torch.stack([dynamic.inputs(rows) for _ in range(2000)]).mean(0)
    torch.testing.assert_close(mean, chances, atol=0.06, rtol=0)
    twin = dynamic.evaluation(1)
    assert torch.equal(torch.cat(list(twin.batches())), torch.cat(list(twin.batches())))
    assert torch.equal(twin.inputs(rows[:5]), dynamic.evaluation(1).inputs(rows[:5]))


@pytest.mark.parametrize("binarize", ["none", "static", "dynamic"])
def test_the_environment_and_the_agent_keep_their_contracts(binarize):
    env = make(binarize=binarize)
    check_environment(env, num_steps=20)
    check_agent(vae(env), env)


def test_what_is_shown_is_what_is_paid_for_though_pixels_are_drawn():
    env = make(binarize="dynamic")
    obs, _ = env.reset(seed=1)
    for _ in range(20):
        obs, reward, *_ = env.step((obs - 0.5) * 100)
        assert (reward > -1e-6).all()


# The bound


def test_kl_is_that_of_torch_distributions():
    code = Code(torch.randn(5, 3), torch.randn(5, 3))
    q = Normal(code.mean, (0.5 * code.log_var).exp())
    torch.testing.assert_close(kl_from_standard_normal(code), kl_divergence(q, Normal(0.0, 1.0)))
    assert not kl_from_standard_normal(Code(code.mean)).any()


def test_the_loss_is_minus_the_elbo_summed_over_pixels_and_code_averaged_over_the_batch():
    env = make()
    agent = vae(env, beta=3.0)
    obs, _ = env.reset(seed=1)
    torch.manual_seed(5)
    code = agent.encode(obs)
    nll = F.binary_cross_entropy_with_logits(agent.decode(draw(code)), obs, reduction="sum") / len(obs)
    kl = kl_divergence(Normal(code.mean, (0.5 * code.log_var).exp()), Normal(0.0, 1.0)).sum() / len(obs)
    torch.manual_seed(5)
    metrics = agent.learn(rlcore.collect(agent, env, obs, 1))
    torch.testing.assert_close(metrics["loss"], (nll + 3 * kl).detach())
    torch.testing.assert_close(metrics["kl"], kl.detach())


def test_doubling_the_batch_leaves_the_loss_per_image_alone():
    one = examples(n=8)
    two = Dataset(Split(*(torch.cat([x, x]) for x in one.train)), None, one.classes)
    losses = []
    for dataset, num_envs in ((one, 8), (two, 16)):
        env = make(dataset, num_envs=num_envs, test_fraction=0, shuffle=False)
        torch.manual_seed(0)
        agent = vae(env)
        nn.init.zeros_(agent.network.code.weight[2:])  # no noise: variances of e^-30
        nn.init.constant_(agent.network.code.bias[2:], -30.0)
        obs, _ = env.reset(seed=1)
        losses.append(agent.learn(rlcore.collect(agent, env, obs, 1))["loss"])
    torch.testing.assert_close(*losses)


def test_the_gradient_flows_through_the_draw():
    env = make()
    agent = vae(env, beta=0.0)
    obs, _ = env.reset(seed=1)
    agent.learn(rlcore.collect(agent, env, obs, 1))
    grad = agent.network.code.weight.grad  # of mean and log-variance, though no KL was paid for
    assert (grad.abs().sum(1) > 0).all()
    code = Code(torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True))
    z = draw(code)
    mean_grad, log_var_grad = torch.autograd.grad(z.sum(), [code.mean, code.log_var])
    assert (mean_grad == 1).all()
    torch.testing.assert_close(log_var_grad, 0.5 * z.detach())  # d/ds e^(s/2) n at s = 0


def test_free_bits_cost_nothing_and_beta_warms_up():
    env = make()
    obs, _ = env.reset(seed=1)
    for settings, progress, beta in (
        ({"kl_warmup": 0.5}, 0.0, 0.0),
        ({"kl_warmup": 0.5}, 0.25, 0.5),
        ({"kl_warmup": 0.5}, 0.9, 1.0),
        ({"beta": 4.0}, 0.0, 4.0),
    ):
        agent = vae(env, **settings)
        env.reset(seed=1)
        metrics = agent.learn(rlcore.collect(agent, env, obs, 1, progress=progress))
        assert metrics["beta"] == beta
    agent = vae(env, free_bits=0.5, beta=3.0)
    with torch.no_grad():  # KL of the coordinates: one below, one above what is free; the one below above for some rows
        agent.network.code.bias[:2] = torch.tensor([0.0, 2.0])
        agent.network.code.weight[0] *= 14
    env.reset(seed=1)
    rollout = rlcore.collect(agent, env, obs, 1)
    kl = kl_from_standard_normal(rollout[0].memory).detach()
    assert kl.mean(0)[0] < 0.5 < kl[:, 0].max()
    assert kl.mean(0)[1] > 0.5
    loss = agent.learn(rollout)["loss"]
    torch.testing.assert_close(loss, 3 * (0.5 + kl.mean(0)[1]) - rollout.reward.detach().mean())


def linear_gaussian(std=0.5, dims=5, latent=2, n=400):
    """Gaussian data, an environment and an agent whose network is linear."""
    torch.manual_seed(3)
    x = torch.randn(n, latent) @ torch.randn(latent, dims) * 1.5 + std * torch.randn(n, dims) + torch.randn(dims)
    env = make(from_arrays(x, torch.arange(n) % 2), num_envs=n, test_fraction=0, action="gaussian", std=std)
    network = {"name": "vae", "latent": latent, "hidden": [dims], "activation": "identity"}
    return env, AutoencoderAgent(env, AutoencoderAgent.Settings.model_validate({"network": network}))


def principal(env, latent=2):
    """Probabilistic PCA with a known variance (Tipping & Bishop 1999, equation 15): mean, W, and log p(x) [n]."""
    x = torch.cat(list(env.batches())).double()
    variance = env.settings.std**2
    values, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))
    W = vectors[:, -latent:] * (values[-latent:] - variance).clamp_min(0).sqrt()
    marginal = MultivariateNormal(x.mean(0), W @ W.T + variance * torch.eye(x.shape[1], dtype=x.dtype))
    return x.mean(0), W, marginal.log_prob(x)


def set_to_the_optimum(env, agent):
    """Decoder W z + mean; the encoder is its posterior, whose covariance is diagonal: W has orthogonal columns."""
    mean, W, _ = principal(env)
    precision = W.T @ W / env.settings.std**2 + torch.eye(2, dtype=W.dtype)
    posterior = torch.linalg.solve(precision, W.T) / env.settings.std**2
    network, eye = agent.network, torch.eye(5)
    hidden_in, hidden_out, last = network.encoder[1], network.decoder[0], network.decoder[2]
    with torch.no_grad():
        for layer in (hidden_in, hidden_out, last, network.code):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        hidden_in.weight.copy_(eye)
        hidden_in.bias.copy_(-mean)
        network.code.weight[:2] = posterior
        network.code.bias[2:] = -precision.diagonal().log()
        hidden_out.weight.copy_(W)
        last.weight.copy_(eye)
        last.bias.copy_(mean)


def test_a_linear_vae_reaches_the_likelihood_of_probabilistic_pca():
    env, agent = linear_gaussian()
    settings = AutoencoderAgent.Settings.model_validate(
        {**agent.settings.model_dump(), "learning_rate": 5e-2, "learning_rate_schedule": "cosine"}
    )
    agent = AutoencoderAgent(env, settings)
    Trainer(agent, env, total_steps=1500 * env.num_envs).fit()
    obs = torch.cat(list(env.batches()))
    with torch.no_grad():
        elbo = log_weights(agent, env, obs, agent.encode(obs), k=500).mean().item()
    optimum = principal(env)[2].mean().item()
    assert optimum - 0.03 < elbo < optimum + 0.005


def test_at_the_true_posterior_each_draw_weighs_the_marginal_likelihood():
    env, agent = linear_gaussian()
    set_to_the_optimum(env, agent)
    obs = torch.cat(list(env.batches()))
    expected = principal(env)[2]
    with torch.no_grad():
        weights = log_weights(agent, env, obs, agent.encode(obs), k=3)
    torch.testing.assert_close(weights.double(), expected.expand(3, -1), atol=2e-3, rtol=0)
    scalars = told(BoundReport, env, agent, k=[1, 7], batch=3).scalars
    for k in (1, 7):
        assert scalars[f"negative_bound_{k}"] == pytest.approx(-expected.mean().item(), abs=1e-3)


def test_more_draws_tighten_the_bound_and_the_first_is_the_elbo():
    env = make(binarize="static")
    agent = vae(env, learning_rate=1e-2)
    Trainer(agent, env, total_steps=8000).fit()
    whole = told(BoundReport, env, agent, k=[50, 2000]).scalars
    pieces = told(BoundReport, env, agent, k=[50, 2000], batch=7).scalars
    assert pieces["negative_bound_50"] == pytest.approx(whole["negative_bound_50"], abs=0.15)
    assert pieces["negative_bound_2000"] == pytest.approx(whole["negative_bound_2000"], abs=0.05)
    code = agent.encode(torch.cat(list(env.evaluation(1).batches())))
    with torch.no_grad():
        weights = log_weights(agent, env, torch.cat(list(env.evaluation(1).batches())), code, 4000)
    assert -weights.mean().item() == pytest.approx(
        np.mean([told(ELBOReport, env, agent, seed=s).scalars["negative_elbo"] for s in range(300)]), abs=0.05
    )
    with torch.no_grad():
        agent.network.code.bias[:2] += 1  # an encoder that misses the posterior
    first, second, third = told(BoundReport, env, agent, k=[1, 50, 2000]).scalars.values()
    assert third + 0.3 < second < first - 1


# Networks


@pytest.mark.parametrize(("name", "parameters"), [("autoencoder", 630_386), ("vae", 631_188), ("conv_vae", 5_491_301)])
def test_the_networks_have_the_courses_sizes(name, parameters):
    network = build(name, (1, 28, 28))
    assert sum(p.numel() for p in network.parameters()) == parameters
    code = network.encode(torch.rand(3, 1, 28, 28))
    assert code.mean.shape == (3, 2)
    assert (code.log_var is None) == (name == "autoencoder")
    assert network.decode(code.mean).shape == (3, 1, 28, 28)
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 2) == (3, network.num_features)
    assert build(name, (1, 28, 28), 7)(torch.rand(3, 1, 28, 28)).shape == (3, 7)


def test_the_transposed_convolution_of_one_pixel_is_one():
    layer = build("conv_vae", (1, 28, 28)).decoder[2]
    x = torch.randn(3, 1024, 1, 1)
    torch.testing.assert_close(layer(x), nn.ConvTranspose2d.forward(layer, x))


def test_tanh_bounds_the_code_and_not_its_variance():
    network = build("vae", (1, 28, 28), code_activation="tanh")
    nn.init.constant_(network.code.bias, 50.0)
    code = network.encode(torch.rand(3, 1, 28, 28))
    assert (code.mean.abs() <= 1).all()
    assert (code.log_var > 1).all()


# Runs


def test_evaluation_and_reports_change_no_bit_of_the_training():
    env = make(binarize="dynamic")
    agent = vae(env)
    trainer = Trainer(agent, env, total_steps=400)
    trainer.update()
    before = trainer.checkpoint()
    env.evaluation(1).score(agent, 1, seed=1)
    for report in ("elbo", "bound", "latent", "inpainting", "projector", "disentanglement"):
        kind = rlcore.registry.reports[report]
        settings = {"k": [2]} if report == "bound" else {"steps": 2} if report == "inpainting" else {}
        told(kind, env, agent, **settings)
    same(trainer.checkpoint(), before)


@pytest.fixture(scope="session")
def trained_on_digits(tmp_path_factory):
    run = tmp_path_factory.mktemp("digits") / "run"
    run_cli("train", "digits_vae", "trainer.epochs=3", *WITHOUT_REPORTS, "--run-dir", str(run))
    return run


@pytest.fixture
def digits_run(trained_on_digits, workdir):
    """A folder of one's own, ``run``, in the working folder."""
    return shutil.copytree(trained_on_digits, workdir / "run")


WITHOUT_REPORTS = "trainer.reports=[]", "trainer.eval_every=null"


def run_cli(*arguments):
    from typer.testing import CliRunner

    plugin = rlcore.registry.commands
    if arguments[0] in plugin.names() and arguments[0] not in [command.name for command in app.registered_commands]:
        app.command(arguments[0])(plugin[arguments[0]])
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_samples_and_figures_from_the_command_line(digits_run, workdir):
    from matplotlib.image import imread

    out = run_cli("sample", str(digits_run), "--num", "9", "--out", "mine.png")
    assert out.strip() == "mine.png"
    assert imread("mine.png").shape[:2] == (3 * 9 + 1, 3 * 9 + 1)
    run_cli("sample", str(digits_run), "--num", "9", "--out", "again.png")
    assert (imread("mine.png") == imread("again.png")).all()
    run_cli("eval", str(digits_run), "--report", "latent")
    names = {"reconstructions", "samples", "interpolation", "scatter", "manifold", "traversal"}
    assert names <= {path.stem for path in (digits_run / "figures").iterdir()}
    run_cli("eval", str(digits_run), "--report", "projector", "num=50")
    (labels,) = digits_run.rglob("metadata.tsv")
    assert len(labels.read_text().split()) == 50
    assert (labels.parent / "sprite.png").is_file()
    with pytest.raises(InputError, match="a folder that exists"):
        run_cli("sample", str(digits_run), "--out", "nowhere/x.png")


# Bad input


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scaling": "standard"}, r"log_odds needs targets in \[0, 1\], got -\d.* to \d.*; for other numbers"),
        ({"scaling": "standard", "binarize": "dynamic"}, r"probabilities in \[0, 1\], got"),
    ],
)
def test_pixels_outside_the_range_are_named(settings, words):
    with pytest.raises(InputError, match=words):
        make(channels="first", **settings)


def test_mistakes_are_one_line(digits_run, workdir):
    with pytest.raises(InputError, match=r"agent\.network\.latent: must be greater than 0, got 0"):
        rlcore.commands.train("digits_vae", ["agent.network.latent=0"], None, None, 1)
    with pytest.raises(InputError, match="has no encode and decode; autoencoder, vae and conv_vae have"):
        vae(make(), network={"name": "mlp"})
    with pytest.raises(InputError, match=r"multiples of 4, from 20 pixels on, got inputs of shape \(1, 4, 4\)"):
        vae(make(channels="first"), network={"name": "conv_vae"})
    with pytest.raises(InputError, match=r"env\.name=reconstruction"):
        vae(rlcore.registry.envs["cartpole"](rlcore.registry.envs["cartpole"].Settings()))
    env = make()
    with pytest.raises(
        InputError, match=r"bound: the reward here is not a likelihood; train with env\.binarize=dynamic and env\.act"
    ):
        told(BoundReport, env, vae(env))
    plain = vae(env, name="autoencoder", network={"name": "autoencoder"})
    for report in ("bound", "inpainting"):
        with pytest.raises(InputError, match="plain autoencoder is not a generative model"):
            told(rlcore.registry.reports[report], env, plain)
    flat = make(from_arrays(np.random.default_rng(0).random((40, 3)), np.arange(40) % 2))
    with pytest.raises(InputError, match=r"needs images .* shape \(3,\)"):
        told(rlcore.registry.reports["latent"], flat, vae(flat))
    run_cli("train", "cartpole_ppo", "trainer.total_steps=512", "--run-dir", "ppo")
    with pytest.raises(InputError, match="sample ppo: needs an autoencoder"):
        run_cli("sample", "ppo")
    run_cli(
        "train",
        "digits_vae",
        "agent.network.name=autoencoder",
        "trainer.epochs=1",
        *WITHOUT_REPORTS,
        "--run-dir",
        "plain",
    )
    with pytest.raises(InputError, match="sample plain: a plain autoencoder is not a generative model"):
        run_cli("sample", "plain")
    for run, shape, words in (
        ("ppo", (1, 8, 8), "ppo is a run of the agent ppo, not of an autoencoder"),
        ("run", (1, 9, 9), r"inputs here have shape \(1, 9, 9\), those that .*run encodes have shape \(1, 8, 8\)"),
        ("run", (64,), r"inputs here have shape \(64,\)"),
        ("nothing", (1, 8, 8), "nothing is not a run"),
    ):
        with pytest.raises(InputError, match=words):
            build("encoder_of", shape, run=run)


@pytest.mark.parametrize("report", ["confusion", "examples"])
def test_a_report_of_classes_is_none_of_reconstructions(report):
    env = make()
    with pytest.raises(InputError, match="needs a data set of classes"):
        told(rlcore.registry.reports[report], env, vae(env))


def test_settings_that_would_do_nothing_are_refused():
    with pytest.raises(InputError, match="free_bits: need a code that is a distribution; autoencoder's is not"):
        vae(make(), network={"name": "autoencoder"}, beta=2.0)
    with pytest.raises(ValueError, match="std: is a setting of the action gaussian"):
        make(std=2.0)


def test_every_split_decides_what_pixels_are():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 1, 4, 4)).astype(np.float32)
    classes = np.arange(40) % 2
    assert make(from_arrays(bits, classes, bits, classes)).is_binary
    assert not make(from_arrays(bits, classes, bits * 0.7, classes)).is_binary
    assert not make(from_arrays(bits, classes, bits * 0 + 0.7, classes)).is_binary  # of which each has one number
    assert not make(from_arrays(bits, classes, bits, classes, bits * 0.7, classes)).is_binary
    for held in ((bits * 1.5, classes), (bits, classes, bits * 1.5, classes)):
        with pytest.raises(InputError, match=r"got 0 to 1\.5"):
            make(from_arrays(bits, classes, *held))
    raw = make(from_arrays(bits.astype(np.uint8), classes), binarize="static", scaling="raw")
    assert raw.inputs(slice(0, 5)).unique().tolist() == [0, 1]
    assert raw.evaluation(1).inputs(slice(0, 5)).unique().tolist() == [0, 1]


class Counted(torch.utils.data.Dataset):
    """Black and white images, and how often one was made."""

    made = 0

    def __len__(self):
        return 40

    def __getitem__(self, number):
        self.made += 1
        return torch.full((1, 4, 4), float(number % 3 == 0)), 0.0


def test_what_pixels_are_is_found_in_one_pass():
    train, test = Counted(), Counted()
    dataset = from_torch(train, test, workers=0)
    train.made = test.made = 0
    assert make(dataset).is_binary
    assert (train.made, test.made) == (40, 40)


def test_what_the_pixels_are_is_told_with_the_figures():
    for settings, words in (({}, "not binary"), ({"binarize": "dynamic"}, r"binary (static)")):
        env = make(**settings)
        agent = vae(env)
        assert f"pixels: {words}" in env.evaluation(1).score(agent, 1, seed=1).text
        assert f"pixels: {words}" in told(ELBOReport, env, agent).text


def test_the_figures_numbers_are_those_of_the_code():
    env = make()
    agent = vae(env)
    with torch.no_grad():
        agent.network.code.weight[1] = 0  # the second number says nothing
        agent.network.code.weight[0] *= 10
    scalars = told(rlcore.registry.reports["latent"], env, agent).scalars
    codes = agent.encode(torch.cat(list(env.evaluation(1).batches())))
    kl = kl_from_standard_normal(codes).mean(0)
    assert scalars["active_units"] == 1
    assert [scalars["kl_0"], scalars["kl_1"]] == pytest.approx(kl.tolist())
    plain = vae(env, network={"name": "autoencoder"})
    assert list(told(rlcore.registry.reports["latent"], env, plain).scalars) == ["active_units"]


# Other agents


def on_codes(run, name, **settings):
    env = rlcore.registry.envs["supervised"]
    env = env(env.Settings(dataset="digits", action="label", num_envs=32))
    kind = rlcore.registry.agents[name]
    network = {"name": "encoder_of", "run": str(run), "body": {"name": "mlp", "hidden": [32]}, **settings}
    return env, kind(env, kind.Settings.model_validate({"network": network}))


@pytest.mark.parametrize("agent", ["ppo", "reinforce"])
@pytest.mark.parametrize("frozen", [True, False])
def test_a_policy_learns_on_a_trained_encoder_which_keeps_or_changes_its_parameters(digits_run, agent, frozen):
    env, agent = on_codes(digits_run, agent, frozen=frozen)
    trained = Run(digits_run).trainer("last")[0].agent
    encoder = agent.body.autoencoder.encoder
    same(dict(encoder.state_dict()), dict(trained.network.encoder.state_dict()))
    agent.train()
    assert encoder.training == (not frozen)
    Trainer(agent, env, total_steps=32 * 40).fit()
    kept = torch.equal(encoder[1].weight, trained.network.encoder[1].weight)
    assert kept == frozen
    check_agent(agent, env)


@pytest.mark.parametrize("agent", ["ppo", "reinforce"])
def test_a_frozen_encoder_keeps_its_statistics_and_drops_nothing(workdir, agent):
    @rlcore.registry.networks.register("noisy_vae")
    class Noisy(VAE):
        def __init__(self, in_shape, out_features, settings):
            super().__init__(in_shape, out_features, settings)
            self.encoder.append(nn.BatchNorm1d(settings.hidden[-1]))
            self.encoder.append(nn.Dropout(0.5))

    run_cli(
        "train",
        "digits_vae",
        "agent.network.name=noisy_vae",
        "trainer.epochs=1",
        *WITHOUT_REPORTS,
        "--run-dir",
        "noisy",
    )
    env, agent = on_codes("noisy", agent)
    norm = agent.body.autoencoder.encoder[-2]
    before = norm.running_mean.clone()
    obs, _ = env.reset(seed=1)
    agent.train()
    assert torch.equal(agent.body(obs), agent.body(obs))
    Trainer(agent, env, total_steps=32 * 40).fit()
    assert torch.equal(norm.running_mean, before)


def test_the_encoder_is_found_from_elsewhere_and_answers_with_the_mean_of_the_code(digits_run, workdir, monkeypatch):
    network = build("encoder_of", (1, 8, 8), run="run")
    trained = Run(digits_run).trainer("last")[0].agent
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(network(x), trained.encode(x).mean)
    assert network.num_features == 2
    assert build("encoder_of", (1, 8, 8), 3, run="run")(x).shape == (5, 3)
    choice = rlcore.networks.NetworkChoice.model_validate({"name": "encoder_of", "run": "run"})
    elsewhere = workdir / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert choice.build((1, 8, 8)).num_features == 2


def test_an_autoencoder_from_outside_takes_part(workdir):
    @rlcore.registry.networks.register("outside_vae")
    class Outside(rlcore.networks.Network):
        """Neither `latent` nor `is_variational`: encode and decode are all there is to have."""

        reads_images = False

        def __init__(self, in_shape, out_features, settings):
            super().__init__()
            self.shape, self.num_features = in_shape, 3
            self.down, self.up = nn.Linear(math.prod(in_shape), 6), nn.Linear(3, math.prod(in_shape))
            self.dropout = nn.Dropout(0.01)

        def encode(self, x):
            return Code(*self.down(self.dropout(x.flatten(1))).chunk(2, 1))

        def decode(self, z):
            return self.up(z).unflatten(1, self.shape)

    class Sparse(AutoencoderAgent):
        def encode(self, obs):
            code = super().encode(obs)
            return Code(code.mean.relu(), code.log_var)

    env = make(binarize="static")
    agent = Sparse(env, Sparse.Settings.model_validate({"network": {"name": "outside_vae"}, "learning_rate": 1e-2}))
    check_agent(agent, env)
    before = told(ELBOReport, env, agent).scalars["negative_elbo"]
    Trainer(agent, env, total_steps=8000).fit()
    assert told(ELBOReport, env, agent).scalars["negative_elbo"] < before - 0.5
    agent.train()
    before = torch.get_rng_state()
    for report in ("latent", "inpainting", "disentanglement"):
        told(rlcore.registry.reports[report], env, agent)
    assert torch.equal(torch.get_rng_state(), before)
    assert agent.network.dropout.training


@rlcore.registry.networks.register("spatial_vae")
class Spatial(VAE):
    """The same network, its code in three dimensions."""

    def encode(self, x):
        return Code(*(part.unflatten(1, (2, -1, 1)) for part in super().encode(x)))

    def decode(self, code):
        return super().decode(code.flatten(1))


@pytest.mark.parametrize("latent", [2, 6])
def test_a_spatial_code_is_reported_as_the_flat_one_of_the_same_numbers(latent):
    env = make(binarize="static")
    flat, spatial = (vae(env, network={"name": name, "latent": latent}) for name in ("vae", "spatial_vae"))
    spatial.load_state_dict(flat.state_dict())
    for name in ("elbo", "bound", "inpainting", "latent", "disentanglement", "projector"):
        report = rlcore.registry.reports[name]
        settings = {"bound": {"num": 5}, "inpainting": {"steps": 5}, "latent": {"num": 3, "side": 4}}.get(name, {})
        ours, theirs = (told(report, env, agent, **settings) for agent in (spatial, flat))
        assert ours.scalars == pytest.approx(theirs.scalars, rel=1e-6)
        assert (ours.text, ours.figures.keys()) == (theirs.text, theirs.figures.keys())
        if theirs.embedding is not None:
            assert torch.equal(ours.embedding.vectors, theirs.embedding.vectors)
        for key, figure in theirs.figures.items():
            drawn = ours.figures[key].axes[0].images
            for image, expected in zip(drawn, figure.axes[0].images, strict=True):
                assert np.allclose(image.get_array(), expected.get_array(), atol=1e-5)
    check_agent(spatial, env)


def test_the_kl_of_a_spatial_code_is_summed_over_all_of_it():
    class Constant(VAE):
        def encode(self, x):
            return Code(torch.ones(len(x), 2, 4, 4), torch.zeros(len(x), 2, 4, 4))

        def decode(self, code):
            return super().decode(code.flatten(1)[:, :2])

    env = make()
    agent = vae(env)
    agent.network = Constant((1, 4, 4), None, VAE.Settings(latent=2, hidden=[4]))
    assert told(ELBOReport, env, agent).scalars["kl"] == 0.5 * 2 * 4 * 4
    assert told(rlcore.registry.reports["latent"], env, agent).scalars["kl_31"] == 0.5


def test_an_encoder_with_a_spatial_code_is_a_body_of_its_numbers(workdir):
    run_cli(
        "train",
        "digits_vae",
        "agent.network={name: spatial_vae, latent: 6}",
        "trainer.epochs=1",
        *WITHOUT_REPORTS,
        "--run-dir",
        "run",
    )
    network, x = build("encoder_of", (1, 8, 8), run="run"), torch.rand(5, 1, 8, 8)
    mean = Run("run").trainer("last")[0].agent.encode(x).mean
    assert mean.shape == (5, 2, 3, 1)
    assert torch.equal(network(x), mean.flatten(1))
    assert network.num_features == 6
    assert build("encoder_of", (1, 8, 8), 3, run="run", body={"name": "mlp"})(x).shape == (5, 3)
    assert run_cli("sample", "run", "--num", "4").strip() == "run/samples.png"


def test_of_a_large_code_the_coordinates_of_highest_kl_are_shown():
    env = make(binarize="static")
    agent = vae(env, network={"name": "vae", "latent": MOST_COORDINATES + 5})
    with torch.no_grad():
        agent.network.code.weight[:5] = 0  # the first five say least
        agent.network.code.bias[:5] = 0
        agent.network.code.weight[5 : MOST_COORDINATES + 5] *= 10
        agent.network.code.weight[MOST_COORDINATES + 5 :] = 0
        agent.network.code.bias[MOST_COORDINATES + 5 :] = 0
    report = told(rlcore.registry.reports["latent"], env, agent, num=2, side=2)
    assert [key for key in report.scalars if key.startswith("kl_")] == [
        f"kl_{i}" for i in range(5, MOST_COORDINATES + 5)
    ]
    assert len(report.figures["traversal"].axes[0].get_yticks()) == MOST_COORDINATES


def test_no_more_images_are_shown_than_there_are():
    env = make(examples(n=20), binarize="static")  # four of them for evaluation
    agent = vae(env)
    figure = told(rlcore.registry.reports["inpainting"], env, agent, num=100, steps=1).figures["inpainting"]
    assert figure.axes[0].images[0].get_array().shape[:2] == (3 * 5 + 1, 4 * 5 + 1)
    report = rlcore.registry.reports["inpainting"]
    with pytest.raises(ValueError, match="less than or equal to 100"):
        report.Settings(num=100_000)


def test_a_vae_learns_digits_in_seconds(workdir):
    few = "trainer.epochs=12", "agent.learning_rate=5e-3", "trainer.reports=[{name: elbo}]", "trainer.eval_every=20_000"
    run_cli("train", "digits_vae", *few, "--run-dir", "run")
    figures = Run("run").result["figures"]
    assert figures["elbo/loss"] < 26.5  # every pixel by its mean: 31.2
    assert 1.5 < figures["elbo/kl"] < 4


# Inpainting and disentanglement


def test_the_hidden_half_is_completed_by_the_likeliest_code():
    std = 0.5
    env = make(examples(n=20, shape=(1, 4, 2)), action="gaussian", std=std, num_envs=4)
    agent = vae(env, network={"name": "vae", "latent": 2, "hidden": [8], "activation": "identity"})
    report = rlcore.registry.reports["inpainting"]
    made = report(report.Settings(num=5, starts=2, steps=2000))
    obs = torch.cat(list(env.evaluation(1).batches()))[:3]
    with torch.no_grad():
        found = made._completed(agent, env, obs, 2)
        offset = agent.decode(torch.zeros(1, 2))[:, :, :2].flatten()
        W = torch.stack([agent.decode(row[None])[:, :, :2].flatten() - offset for row in torch.eye(2)], 1)
    # of a linear decoder: ridge regression of what is seen
    expected = torch.linalg.solve(
        W.T @ W / std**2 + torch.eye(2), W.T / std**2 @ (obs[:, :, :2].flatten(1) - offset).T
    ).T
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_mean_image_is_paid_as_its_closed_form():
    env = make(binarize="static")
    mean = env.mean_input()
    x = env.scaled(env.dataset.train.inputs)
    torch.testing.assert_close(mean, (x.sum(0) + 1) / (len(x) + 2))
    assert torch.allclose(env.pixels(env.answers(mean)), mean)
    shifted = make(action="values", scaling="standard", channels="first")
    torch.testing.assert_close(shifted.mean_input(), shifted.scaled(torch.cat(list(shifted.batches()))).mean(0))
    offset = from_arrays(1.7e9 + np.arange(40.0)[:, None], np.arange(40) % 2, np.ones((2, 1)), np.arange(2))
    mean = make(offset, action="values", scaling="standard").mean_input()
    torch.testing.assert_close(mean, torch.zeros(1), atol=1e-6, rtol=0)


def test_mutual_information_and_its_gap_in_closed_form():
    from rlcore.supervised.reports.disentanglement import image_factors, mutual_information, quantiles

    a = torch.arange(4).repeat(25)
    b = torch.arange(100) % 5
    assert mutual_information(a, a) == pytest.approx(math.log(4))
    assert mutual_information(a, b) == pytest.approx(0, abs=1e-12)
    assert mutual_information(a, a // 2) == pytest.approx(math.log(2))
    assert torch.equal(quantiles(torch.arange(100.0).flip(0), 4).bincount(), torch.full((4,), 25))
    assert (quantiles(torch.ones(10), 4) == quantiles(torch.ones(10), 4)[0]).all()
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    stroke = ((x - 10 - (y - 14)).abs() < 1.5) & ((y - 14).abs() < 8)  # leans by a pixel a row
    upright = ((x - 10).abs() < 1.5) & ((y - 14).abs() < 8)
    found = image_factors(torch.stack([stroke, upright]).float()[:, None])
    assert found["slant"].tolist() == pytest.approx([1, 0], abs=1e-6)
    assert found["mass"].tolist() == [stroke.sum().item(), upright.sum().item()]
    assert found["width"].tolist() == pytest.approx([math.sqrt(2 / 3)] * 2, rel=1e-4)  # of three columns
    assert found["height"].tolist() == pytest.approx([math.sqrt((15**2 - 1) / 12)] * 2, rel=1e-4)  # of fifteen rows


def test_a_code_that_is_the_factors_has_a_gap_of_one_and_a_doubled_one_none():
    from rlcore.supervised.reports.disentanglement import DisentanglementReport

    class Known(VAE):
        """Encodes the first pixel: once, twice."""

        def encode(self, x):
            z = x[:, 0, 0, :1] * 10
            return Code(torch.cat([z, z if self.doubled else torch.zeros_like(z)], 1), torch.zeros(len(x), 2))

    images = torch.zeros(40, 1, 4, 4)
    images[:, 0, 0, 0] = (torch.arange(40) % 4) / 4
    dataset = from_arrays(images, torch.arange(40) % 4)
    env = make(dataset, test_fraction=0)
    agent = vae(env)
    network = Known((1, 4, 4), None, VAE.Settings(latent=2, hidden=[4]))
    for doubled, gap in ((False, 1.0), (True, 0.0)):
        network.doubled = doubled
        agent.network = network
        scalars = told(DisentanglementReport, env, agent, bins=4).scalars
        assert scalars["class_information"] == pytest.approx(1)
        assert scalars["class_gap"] == pytest.approx(gap, abs=1e-9)
        gaps = [value for name, value in scalars.items() if name.endswith("_gap") and name != "mean_gap"]
        assert scalars["mean_gap"] == pytest.approx(sum(gaps) / len(gaps))


def test_pixels_outside_0_and_1_are_shown_by_their_range_and_told():
    settings = ReconstructionEnv.Settings(num_envs=64, dataset="digits", scaling="standard", action="values")
    env = ReconstructionEnv(settings)
    low, high = env.pixel_range
    assert low < 0
    assert high > 1
    ends = torch.tensor([low, high, (low + high) / 2])
    assert env.shades(ends).tolist() == pytest.approx([0, 1, 0.5])
    shown = env.shades(env.scaled(env.inputs(slice(None))))
    assert len(shown.unique()) == len(env.scaled(env.inputs(slice(None))).unique())  # nothing is cut
    assert f"figures show {low:.3g} as 0 and {high:.3g} as 1" in env.pixel_kind
    plain = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=64, dataset="digits"))
    x = plain.scaled(plain.inputs(slice(0, 4)))
    assert torch.equal(plain.shades(x), x)

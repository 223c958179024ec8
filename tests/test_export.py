"""``rlcore export``: what is written answers as the agent, by onnxruntime or torch alone."""

import json
import sys

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from trainers import MLP, TRAINERS, make_trainer

import rlcore
from rlcore import Agent, EnvSpec, InputError, Step, cli, config
from rlcore.agents.ppo import PPO
from rlcore.agents.recurrent_ppo import RecurrentPPO
from rlcore.agents.sac import SAC
from rlcore.agents.supervised import Supervised
from rlcore.distributions import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    SquashedGaussian,
)
from rlcore.evaluation import evaluating
from rlcore.exporting.examples import examples
from rlcore.exporting.programs import described
from rlcore.spaces import Inputs, Logits

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
FAST = ("versus",)
"""The others that are not slow are below."""
QUICK = {"num_observations": 40}
OTHER = 7
"""Seed of observations by which the file was not compared when it was written."""


def changed(agent):
    """The agent with other parameters and statistics, so that nothing it does is by chance the identity."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * (parameter.abs().mean() + 0.1) * torch.randn_like(parameter))
        for name, buffer in agent.named_buffers():
            if "normalizer" in name and name.endswith((".shift", ".mean")):
                buffer.add_(0.4)
            elif ("normalizer" in name and name.endswith(".scale")) or "running_var" in name:
                buffer.mul_(1.7)
    return agent


def spec(observed, action):
    return EnvSpec(2, observed, action, torch.device("cpu"))


def ask(path, inputs):
    """The outputs of a file, by onnxruntime alone."""
    session = onnxruntime.InferenceSession(str(path))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def exported(agent, tmp_path, **settings):
    """The file of an agent that is one program, and its metadata."""
    (one,) = rlcore.export(agent, tmp_path / "agent.onnx", **QUICK, **settings)
    return one.path, one.metadata


def inputs_of(metadata, obs):
    """Observations as the inputs of a file, of its dtypes, with a memory of a beginning."""
    parts = obs if isinstance(obs, dict) else {"obs": obs}
    rows = len(next(iter(parts.values())))
    given = {}
    for one in metadata["inputs"]:
        shape = (rows, *one["shape"][1:])
        given[one["name"]] = np.asarray(parts.get(one["name"], np.zeros(shape))).astype(one["dtype"])
    return given


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in TRAINERS]
)
def test_a_file_answers_as_the_agent(name, tmp_path):
    agent = changed(make_trainer(name).agent)
    files = rlcore.export(agent, tmp_path / "agent.onnx", **QUICK)
    assert all(file.difference <= 1e-5 and not file.num_ties for file in files)
    if len(files) > 1:
        return  # not the action of `predict`: their own tests are below
    (file,) = files
    obs = examples(agent.observation_space, 25, OTHER)
    found = ask(file.path, inputs_of(file.metadata, obs))
    with evaluating(agent):
        expected = agent(obs) if name != "alphazero" else agent.distribution(torch.as_tensor(obs)).mode.numpy()
    expected = expected[0] if isinstance(expected, tuple) else expected
    close(found["action"], expected)
    assert {output["name"] for output in file.metadata["outputs"]} == found.keys()


def test_a_space_is_told_in_one_line():
    low = np.arange(40, dtype=np.float32)
    assert "\n" in str(Box(low, low + 1))
    assert described(Box(low, low + 1)).startswith("Box([ 0. 1. 2. 3. ")
    assert "\n" not in described(Box(low, low + 1))


def test_a_memory_is_carried_by_whoever_asks(tmp_path):
    agent = changed(make_trainer("recurrent_ppo").agent)
    path, metadata = exported(agent, tmp_path)
    obs = examples(agent.observation_space, 8 * 5, OTHER).reshape(8, 5, -1)
    given = inputs_of(metadata, obs[0])
    assert given.keys() == {"obs", "state_0", "state_1"}  # an LSTM's, and not the value's
    state = None
    for seen in obs:
        found = ask(path, {**given, "obs": seen.astype(np.float32)})
        given |= {"state_0": found["next_state_0"], "state_1": found["next_state_1"]}
        action, state = agent(seen, state)
        np.testing.assert_array_equal(found["action"], action)
        close(found["next_state_0"], state[0][0])
    with evaluating(agent):
        before = agent.predict(torch.as_tensor(obs[0])).state
        pi = agent.distribution(torch.as_tensor(obs[1]), before)
    first = ask(path, inputs_of(metadata, obs[0]))
    again = {"state_0": first["next_state_0"], "state_1": first["next_state_1"]}
    close(ask(path, {"obs": obs[1].astype(np.float32), **again})["probabilities"], pi.log_probs.exp())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["gru", "frame_stack"])
def test_other_memories(network, tmp_path):
    settings = {"horizon": 4, "minibatch_size": None, "network": {"name": network, "body": MLP}}
    env = spec(Box(-1, 1, (2,)), Box(-1, 1, (1,)))
    agent = changed(RecurrentPPO(env, RecurrentPPO.Settings.model_validate(settings)))
    path, metadata = exported(agent, tmp_path)
    given, state = inputs_of(metadata, np.zeros((3, 2))), None
    for seen in examples(env.single_observation_space, 15, OTHER).reshape(5, 3, 2):
        found = ask(path, {**given, "obs": seen})
        given |= {name: found[f"next_{name}"] for name in given if name != "obs"}
        action, state = agent(seen, state)
        close(found["action"], action)


SPACES = {
    "start": (Box(-1, 1, (3,)), Discrete(3, start=5)),
    "bounds": (Box(-1, 1, (3,), np.float64), Box(np.float32([-1, 0]), np.float32([0.1, 5]))),
    "pixels": (Box(0, 255, (12, 12, 3), np.uint8), MultiDiscrete([2, 3])),
    "parts": (
        Dict({"image": Box(0, 255, (36, 36, 1), np.uint8), "place": Discrete(4, start=1), "bits": MultiBinary(3)}),
        MultiBinary(2),
    ),
    "masked": (Dict({"x": Box(-1, 1, (2,)), "action_mask": MultiBinary(4)}), Discrete(4)),
}


def policy(name, **settings):
    network = {"name": "multi_input"} if name == "parts" else {"name": "cnn" if name == "pixels" else "mlp"}
    agent = PPO(spec(*SPACES[name]), PPO.Settings.model_validate({"network": network, **settings}))
    return changed(agent)


@pytest.mark.parametrize(
    "name", ["start", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bounds", "parts", "pixels"))]
)
def test_observations_and_actions_of_any_space(name, tmp_path):
    agent = policy(name, normalize_observations=name in ("start", "bounds"))
    path, metadata = exported(agent, tmp_path)
    obs = examples(agent.observation_space, 30, OTHER)
    action = ask(path, inputs_of(metadata, obs))["action"]
    close(action, agent(obs))
    assert action.dtype == (np.float32 if name == "bounds" else np.int64)
    assert all(agent.action_space.contains(row.astype(agent.action_space.dtype)) for row in action)
    session = onnxruntime.InferenceSession(str(path))
    assert json.loads(session.get_modelmeta().custom_metadata_map["rlcore"]) == metadata
    assert (metadata["agent"], metadata["version"]) == ("ppo", rlcore.__version__)
    assert metadata["action_space"] == str(agent.action_space)
    assert [one.shape[0] for one in session.get_inputs()] == ["batch"] * len(metadata["inputs"])


@pytest.mark.slow
def test_a_mask_forbids_in_the_file_too(tmp_path):
    path, metadata = exported(policy("masked"), tmp_path)
    obs = examples(SPACES["masked"][0], 50, OTHER)
    found = ask(path, inputs_of(metadata, obs))
    assert (found["probabilities"][~obs["action_mask"]] == 0).all()
    assert obs["action_mask"][np.arange(50), found["action"]].all()


@pytest.mark.parametrize(
    ("pi", "normal"),
    [
        (Categorical(torch.tensor([[0.3, -1.0, 2.0]])), False),
        (MultiCategorical(torch.tensor([[[0.3, -1.0, 2.0], [1.0, 0.0, -1e9]]])), False),
        (Bernoulli(torch.tensor([[0.3, -1.0]])), False),
        (DiagonalGaussian(torch.tensor([[0.5]]), torch.tensor([0.2])), True),
        (SquashedGaussian(torch.tensor([[0.5]]), torch.tensor([0.2]), torch.tensor([-1.0]), torch.tensor([3.0])), True),
    ],
)
def test_noise_draws_from_the_distribution(pi, normal):
    n = 10_000
    grid = (torch.arange(n) + 0.5) / n  # whose quantiles are exact
    noise = grid.double().mul(2).sub(1).erfinv().mul(2**0.5).float() if normal else grid
    shape = pi.mode.shape[1:]
    drawn = torch.cat([pi.drawn(z.expand(1, *shape)) for z in noise])
    if normal:
        mean = pi.parameters["mean"].item() if isinstance(pi, DiagonalGaussian) else None
        assert pi.noise == "normal"
        share = (drawn <= pi.mode).float().mean()
        assert share.item() == pytest.approx(0.5, abs=1e-3)  # the mode here is the median
        if mean is not None:
            assert drawn.std().item() == pytest.approx(pi.parameters["std"].item(), rel=1e-2)
        return
    p = pi.parameters["probabilities"][0]
    shares = torch.stack(
        [(drawn == k).float().mean(0) for k in range(p.shape[-1] if p.ndim > 1 or not shape else 2)], -1
    )
    expected = torch.stack([1 - p, p], -1) if isinstance(pi, Bernoulli) else p
    torch.testing.assert_close(shares, expected, atol=1.5 / n, rtol=0)


def test_a_draw_never_falls_on_a_forbidden_action():
    pi = Categorical(torch.tensor([[-1e9, 0.1, 0.2, -1e9]]).expand(2, 4))
    assert pi.drawn(torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 2]


def test_a_sampled_file_is_driven_by_its_noise(tmp_path):
    agent = changed(SAC(spec(Box(-1, 1, (2,)), Box(-2, 3, (2,))), SAC.Settings.model_validate({"network": MLP})))
    path, metadata = exported(agent, tmp_path, sample=True)
    obs = examples(agent.observation_space, 20, OTHER).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    found = ask(path, {"obs": obs, "noise": noise})
    with evaluating(agent):
        expected = agent.distribution(torch.as_tensor(obs)).drawn(torch.as_tensor(noise))
    close(found["action"], expected)
    assert {one["name"]: one.get("about") for one in metadata["inputs"]}["noise"].startswith("drawn from the standard")
    assert metadata["sample"] is True


def test_a_classifier_takes_what_its_data_has(tmp_path):
    inputs = Inputs((4, 4, 1), np.uint8, shift=30.0, scale=50.0, channels="last")
    one = spec(inputs, Logits(3))._replace(classes=("cat", "dog", "cow"))
    agent = changed(Supervised(one, Supervised.Settings.model_validate({"network": MLP})))
    path, metadata = exported(agent, tmp_path)
    obs = examples(inputs, 20, OTHER)
    found = ask(path, {"obs": obs})
    with evaluating(agent):
        close(found["probabilities"], agent.outputs(torch.as_tensor(obs)).softmax(1))
    assert found["probabilities"].sum(1) == pytest.approx(1)
    assert metadata["classes"] == ["cat", "dog", "cow"]
    assert metadata["inputs"][0] == {
        "name": "obs", "dtype": "uint8", "shape": ["batch", 4, 4, 1], "about": "Inputs((4, 4, 1), uint8)",
    }  # fmt: skip


def test_an_autoencoder_is_an_encoder_and_a_decoder(tmp_path):
    agent = changed(make_trainer("autoencoder").agent)
    encoder, decoder = rlcore.export(agent, tmp_path / "vae.onnx", sample=True, **QUICK)
    assert [encoder.path.name, decoder.path.name] == ["vae.encoder.onnx", "vae.decoder.onnx"]
    obs = examples(agent.observation_space, 9, OTHER)
    noise = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    code = ask(encoder.path, {**inputs_of(encoder.metadata, obs), "noise": noise})
    decoded = ask(decoder.path, {"code": code["mean"]})
    close(code["code"], code["mean"] + noise * code["std"])
    close(decoded["reconstruction"], agent(obs))
    close(decoded["probabilities"], 1 / (1 + np.exp(-decoded["reconstruction"].astype(np.float64))))


def test_a_player_is_its_network_without_a_search(tmp_path):
    agent = changed(make_trainer("alphazero").agent)
    path, _ = exported(agent, tmp_path)
    state = examples(agent.observation_space, 30, OTHER)
    found = ask(path, {"obs": state})
    with evaluating(agent):
        logits, value = agent.policy_and_value(torch.as_tensor(state))
        legal = agent.game.legal(torch.as_tensor(state)).numpy()
    close(found["value"], value)
    assert (found["probabilities"][~legal] == 0).all()
    expected = np.where(legal, logits.exp(), 0)
    close(found["probabilities"], expected / expected.sum(1, keepdims=True))


def test_a_program_of_torch_export(tmp_path):
    agent = policy("start")
    (one,) = rlcore.export(agent, tmp_path / "agent.pt2", format="pt2", **QUICK)
    obs = torch.as_tensor(examples(agent.observation_space, 5, OTHER)).float()
    extra = {"rlcore.json": ""}
    program = torch.export.load(one.path, extra_files=extra).module()
    np.testing.assert_array_equal(program({"obs": obs})["action"], agent(obs.numpy()))
    assert program({"obs": obs[:1]})["action"].shape == (1,)
    assert json.loads(extra["rlcore.json"]) == one.metadata


class Careless(Agent):
    """Acts by chance, or by a condition on its observations."""

    def __init__(self, env, settings=None, kind="chance"):
        super().__init__(env, settings)
        self.kind = kind

    def act(self, obs, state=None):
        if self.kind == "condition" and obs.sum() > 0:
            obs = -obs
        return Step((obs + torch.rand_like(obs)).argmax(1))

    def learn(self, rollout):
        return {}


def test_what_cannot_be_traced_or_answers_otherwise_is_refused(tmp_path):
    one, out = spec(Box(-1, 1, (3,)), Discrete(3)), tmp_path / "agent.onnx"
    with pytest.raises(InputError, match=r"agent.onnx was not written: of 40 observations it answers \d+ with another"):
        rlcore.export(Careless(one), out, **QUICK)
    with pytest.raises(InputError, match=r"the agent Careless cannot be exported: .*tensors alone") as raised:
        rlcore.export(Careless(one, kind="condition"), out, **QUICK)
    assert "\n" not in str(raised.value)
    with pytest.raises(InputError, match="Careless has no distribution"):
        rlcore.export(Careless(one), out, sample=True, **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def rlcore_(workdir, monkeypatch, capsys):
    """Runs the command line in this process, where ``run`` is a run: exit status, output, errors."""
    (workdir / "quick.yaml").write_text(
        "env: {name: cartpole, num_envs: 2}\nagent: {name: ppo, horizon: 16, minibatch_size: 32}\n"
        "trainer: {total_steps: 32, eval_episodes: 2, reports: []}\n"
    )

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        return caught.value.code or 0, out, err

    assert call("train", "quick.yaml", "--run-dir", "run")[0] == 0
    return call


def test_the_command(rlcore_, workdir, monkeypatch):
    status, out, _ = rlcore_("export", "run", "cartpole.onnx")
    assert status == 0
    assert "  input obs float32 [batch, 4]: Box" in out
    assert "  output action int64 [batch]\n" in out
    assert "  1,000 observations: the same integers, numbers within " in out
    obs = examples(rlcore.load("run").observation_space, 20, OTHER)
    np.testing.assert_array_equal(ask("cartpole.onnx", {"obs": obs})["action"], rlcore.load("run")(obs))
    (workdir / "folder.onnx").mkdir()
    for words, line in [
        (("nowhere", "x.onnx"), "nowhere is not a run: there is no nowhere/config.yaml"),
        (("run", "x.pt"), "export: --format onnx writes a file *.onnx into a folder that exists; got x.pt"),
        (("run", "x.onnx", "--format", "pt2"), "export: --format pt2 writes a file *.pt2 into"),
        (("run", "x.tflite", "--format", "tflite"), "--format: must be one of onnx, pt2, got 'tflite'"),
        (("run", "none/x.onnx"), "export: --format onnx writes a file *.onnx into a folder that exists"),
        (("run", "folder.onnx"), "export: --format onnx writes a file *.onnx into a folder that exists"),
        (("run", "x.onnx", "--opset", "3"), "--opset: must be from 18 to "),
        (("run", "x.onnx", "--opset", "999"), "--opset: must be from 18 to "),
        (("run", "x.pt2", "--format", "pt2", "--opset", "18"), "--opset: is of ONNX"),
        (("run", "page", "--web"), "export: --web needs onnxruntime-web; node_modules/onnxruntime-web has no dist/"),
        (("run", "page", "--web", "--format", "pt2"), "--web: the page runs ONNX"),
        (("run", "x.onnx", "--runtime", "there"), "--runtime: is what the page of --web runs by"),
    ]:
        status, out, err = rlcore_("export", *words)
        assert (status, out, err.count("\n")) == (2, "", 1), words
        assert err.startswith(f"rlcore: {line}"), err
    assert not (workdir / "page").exists()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    status, _, err = rlcore_("export", "run", "x.onnx")
    assert status == 2
    assert err.startswith("rlcore: export: needs onnxscript (")
    assert err.endswith("pip install 'rlcore[export]'\n")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(path.stem for path in config.SHIPPED.glob("*.yaml")))
def test_every_shipped_config(name, tmp_path):
    try:
        trainer, _ = config.build(config.load(name, ["trainer.hooks=[]", "trainer.loggers=[]"]).config)
    except InputError as error:
        pytest.skip(f"cannot be made here: {error}")
    trainer.close()
    agent = changed(trainer.agent)
    for file in rlcore.export(agent, tmp_path / "agent.onnx"):
        if "obs" in (names := [one["name"] for one in file.metadata["inputs"]]) and "noise" not in names:
            found = ask(file.path, inputs_of(file.metadata, examples(agent.observation_space, 50, OTHER)))
            assert any(np.ptp(x.astype(np.float64), axis=0).any() for x in found.values()), "answers alike to all"
        print(f"{name} {file.path.name}: {file.difference:.1g}, {file.num_ties}")

"""What is run on a GPU by benchmarks/gpu.py, and on the CPU as far as that is cheap; and that program itself.

A test on both devices is there twice: on the CPU it tests the test.
"""

import json
import os
import subprocess
import sys
import warnings
from importlib.metadata import entry_points
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from compare import same
from test_waits import UPDATES
from torch.autograd import DeviceType
from torch.overrides import TorchFunctionMode

import rlcore
from rlcore import InputError, checkpoint, config, networks, registry
from rlcore.device import choose_device
from rlcore.envs import cartpole
from rlcore.envs.games import TicTacToe
from rlcore.envs.games.replay import GameReplay
from rlcore.errors import NonFiniteError
from rlcore.networks.recurrent import Recurrent, Sequence
from rlcore.optimizers import Adam
from rlcore.rollout import collect
from rlcore.run import Run
from rlcore.trees import leaves, tree_map
from rlcore.uncertainty.mc_dropout import MCDropout

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which its products are not deterministic

ROOT = Path(__file__).parent.parent
CPU = pytest.param("cpu")
GPU = pytest.param(
    "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)
on_both = pytest.mark.parametrize("device", [CPU, GPU])
on_a_gpu = pytest.mark.parametrize("device", [GPU])

CART = {"name": "cartpole", "num_envs": 8, "max_episode_steps": 7}
DIGITS = {"name": "supervised", "dataset": "digits", "num_envs": 32}
IMAGES = {"name": "reconstruction", "dataset": "digits", "num_envs": 32}
GAMES = {"name": "selfplay", "game": "tictactoe", "num_envs": 8, "random_openings": 7}
PPO = {"name": "ppo", "horizon": 12, "minibatch_size": None, "num_epochs": 2, "normalize_rewards": True}
RECURRENT = {**PPO, "name": "recurrent_ppo", "normalize_observations": True}
LENET = {"name": "lenet", "padding": [2, 2]}
SGD = {"name": "supervised", "network": LENET, "optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1}
ALPHAZERO = {"name": "alphazero", "horizon": 6, "simulations": 6, "eval_simulations": 4, "batch_size": 16}
REPLAY = {"horizon": 4, "learning_starts": 16, "batch_size": 16, "replay_size": 400, "updates_per_step": 0.1}
RUNS = {
    "ppo": (CART, {**PPO, "normalize_observations": True}),
    "ppo in minibatches": (CART, {**PPO, "minibatch_size": 24}),
    "ppo, a Box": ({"name": "probe_target", "num_envs": 8}, PPO),
    "ppo, dropout": ({**DIGITS, "action": "label"}, {**PPO, "network": {**LENET, "dropout": 0.2}, "shared": True}),
    "gru": (CART, {**RECURRENT, "network": {"name": "gru", "size": 16}}),
    "lstm": (CART, {**RECURRENT, "network": {"name": "lstm", "size": 16}, "shared": True}),
    "frame_stack": (CART, {**RECURRENT, "network": {"name": "frame_stack"}}),
    "reinforce": (CART, {"name": "reinforce"}),
    "reinforce, baseline": (CART, {"name": "reinforce", "baseline": True}),
    "random_search": (CART, {"name": "random_search", "max_std": 1.0}),
    "supervised": (DIGITS, SGD),
    "supervised, adamw": (DIGITS, {"name": "supervised", "optimizer": "adamw", "weight_decay": 0.01}),
    "autoencoder": (IMAGES, {"name": "autoencoder"}),
    "vae": ({**IMAGES, "binarize": "dynamic"}, {"name": "autoencoder", "network": {"name": "vae"}, "kl_warmup": 0.5}),
    "ensemble": (DIGITS, {"name": "ensemble", "members": 2, "agent": SGD}),
    "ensemble of policies": (CART, {"name": "ensemble", "members": 2, "agent": PPO}),
    "dqn": (CART, {**REPLAY, "name": "dqn", "double": True, "n_step": 3}),
    "dqn, quantiles": (CART, {**REPLAY, "name": "dqn", "quantiles": 5, "dueling": True}),
    "crossq": ({"name": "probe_target", "num_envs": 8}, {**REPLAY, "name": "crossq"}),
    "discrete_sac": (CART, {**REPLAY, "name": "discrete_sac"}),
    "sac": ({"name": "probe_target", "num_envs": 8}, {**REPLAY, "name": "sac"}),
    "tqc": ({"name": "probe_target", "num_envs": 8}, {**REPLAY, "name": "sac", "quantiles": 5}),
    "td3": ({"name": "probe_target", "num_envs": 8}, {**REPLAY, "name": "td3", "noise_kind": "ornstein_uhlenbeck"}),
    "pqn": (CART, {"name": "pqn", "horizon": 8, "minibatch_size": 16}),
    "trpo": (CART, {"name": "trpo", "horizon": 8, "value_minibatch_size": 32}),
    "gumbel": (GAMES, {**ALPHAZERO, "search": "gumbel"}),
    "puct": (GAMES, {**ALPHAZERO, "search": "puct", "reuse_tree": True, "temperature_moves": 4, "gate_every": 2,
                     "gate_games": 4}),
}  # fmt: skip
VERSUS = {
    "name": "versus",
    "game": "tictactoe",
    "num_envs": 8,
    "pool": [{"name": "random"}, {"name": "minmax", "depth": 2}],
}
"""Draws from torch's generator of the device in between, which `SameDraws` cannot imitate."""


def made(env, agent, device, run=None, **trainer):
    """A trainer of a config; with a folder, its run is there."""
    settings = {"total_steps": 100_000, "tensorboard": False, **trainer}
    loaded = config.Config.model_validate({"env": env, "agent": agent, "trainer": settings, "device": device})
    built, _ = config.build(loaded)
    torch.set_num_threads(1)
    if run is not None:
        built.write_to(Run.create(config.Loaded("test", loaded, {}), run).path)
    return built


@pytest.fixture(autouse=True)
def _exact():
    """Without TF32, whose products have three digits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class SameDraws(TorchFunctionMode):
    """Whatever is drawn is drawn on the CPU, so that it is the same on every device, and copied."""

    MAKE = {torch.rand, torch.randn, torch.randint, torch.randperm}
    LIKE = {torch.rand_like, torch.randn_like, torch.bernoulli, torch._standard_gamma}
    FILL = {torch.Tensor.uniform_, torch.Tensor.exponential_}

    def __init__(self):
        super().__init__()
        self.generators = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func not in self.MAKE | self.LIKE | self.FILL:
            return func(*args, **kwargs)
        if kwargs.get("generator") is not None:
            kwargs["generator"] = self.imitated(kwargs["generator"])
        if func in self.MAKE:
            device = kwargs.pop("device", "cpu")
            return func(*args, **kwargs).to(device)
        x, *rest = args
        drawn = func(x.detach().cpu(), *rest, **kwargs)
        return x.copy_(drawn) if func in self.FILL else drawn.to(x.device)

    def imitated(self, generator):
        """A generator on the CPU with the seed of another one."""
        if generator.device.type == "cpu":
            return generator
        key = id(generator), generator.initial_seed()
        if key not in self.generators:
            self.generators[key] = torch.Generator().manual_seed(generator.initial_seed())
        return self.generators[key]


def as_on_a_gpu(monkeypatch):
    """Makes the CPU take the ways that are meant for a GPU."""
    monkeypatch.setattr(cartpole, "_array_namespace", lambda device: torch)
    for module in ("finite", "agent", "statistics", "search.tree", "search.evaluators", "envs.selfplay"):
        monkeypatch.setattr(f"rlcore.{module}.sync_is_costly", lambda device: True)


@on_both
@pytest.mark.parametrize("name", RUNS)
def test_it_learns_as_on_the_cpu(monkeypatch, name, device):
    """Three updates with the same draws change each tensor in the same way, up to 2 % of the change.

    Sums in another order differ by 1e-7 of their terms, and Adam enlarges that where a gradient is nearly 0: on the
    CPU, noise of 3e-7 in the parameters before each update changes the result by 0.1 % of the change at most.
    """
    as_on_a_gpu(monkeypatch)
    here = made(*RUNS[name], "cpu")
    before = {key: value.clone() for key, value in here.agent.state_dict().items()}
    for _ in range(3):
        here.update()
    with SameDraws():
        there = made(*RUNS[name], device)
        for _ in range(3):
            there.update()
    assert there.steps == here.steps
    assert all(x.device.type == device for x in there.agent.state_dict().values())
    assert there.episodes.means() == pytest.approx(here.episodes.means(), rel=1e-4)
    changed = False
    for key, value in here.agent.state_dict().items():
        got = there.agent.state_dict()[key].cpu()
        change = (value.double() - before[key].double()).norm()
        changed |= bool(change > 0)
        assert (got.double() - value.double()).norm() <= (0.02 * change + 1e-6 if device == "cuda" else 0), key
    assert changed


@on_both
def test_games_against_a_pool_are_learned_from(device):
    trainer = made(VERSUS, {**PPO, "num_epochs": 1}, device)
    before = [param.clone() for param in trainer.agent.parameters()]
    for _ in range(3):
        trainer.update()
    assert not trainer._finite.found(trainer.agent)
    assert any(not torch.equal(x, y) for x, y in zip(before, trainer.agent.parameters(), strict=True))


@on_both
@pytest.mark.parametrize("name", ["ppo", "gru", "reinforce, baseline", "supervised", "vae", "puct"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, deterministic, name, device):
    whole, cut = made(*RUNS[name], device), made(*RUNS[name], device)
    for _ in range(5):
        whole.update()
    for _ in range(3):
        cut.update()
    checkpoint.save(tmp_path / "cut.pt", cut.checkpoint())
    cut = made(*RUNS[name], device)
    assert cut.restore(checkpoint.load(tmp_path / "cut.pt", cut.env.device)) == []
    for _ in range(2):
        cut.update()
    same(cut.checkpoint(), whole.checkpoint())


def answered(agent, obs):
    """The logits of a policy, or the action where that is a number."""
    action = agent.predict(obs).action
    return action if action.is_floating_point() else agent.distribution(obs).logits


@on_both
@pytest.mark.parametrize("name", ["ppo", "lstm", "supervised", "vae", "ensemble", "gumbel"])
def test_a_checkpoint_moves_between_devices(tmp_path, name, device):
    """The answers there and back are the same up to the rounding of other kernels."""
    trainers = [made(*RUNS[name], where) for where in ("cpu", device, "cpu")]
    first, *_ = trainers
    for _ in range(3):
        first.update()
    obs = first.collector.obs
    for one, other in pairwise(trainers):
        checkpoint.save(tmp_path / "moved.pt", one.checkpoint())
        for at in ("cpu", other.env.device):  # as read in Python, and as by rlcore resume
            other.restore(checkpoint.load(tmp_path / "moved.pt", at))
        got = answered(other.agent, obs.to(other.env.device))
        torch.testing.assert_close(got.cpu(), answered(first.agent, obs), rtol=1e-4, atol=1e-4)
    for trainer in trainers:
        trainer.update()  # its replay, its optimizer and its generators are where it is


def test_a_replay_is_restored_on_the_device_where_it_is():
    """Shown by torch's meta device, which computes nothing and mixes with no other."""
    trainer = made(*RUNS["gumbel"], "cpu")
    for _ in range(3):
        trainer.update()
    elsewhere = GameReplay(TicTacToe(), 100, True, device="meta")
    elsewhere.load_state_dict(trainer.agent.replay.state_dict())
    assert {x.device.type for x in leaves((elsewhere.waiting, elsewhere.replay._rows))} == {"meta"}


def test_a_memory_is_empty_without_a_copy(monkeypatch):
    """What is copied to a GPU makes the host wait; each rollout asks for the state of a beginning."""
    agent = made(*RUNS["frame_stack"], "cpu").agent
    for name in ("as_tensor", "tensor"):
        monkeypatch.setattr(torch, name, lambda *given, **options: pytest.fail(f"a copy of {given}"))
    frames, _ = agent.initial_state(4)[0]
    assert frames.shape == (4, 3, 4)
    assert frames.dtype == torch.float32


class Waits:
    """Counts what makes the host wait for a GPU, as torch itself reports it."""

    def __enter__(self):
        self.catching = warnings.catch_warnings(record=True)
        self.caught = self.catching.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *raised):
        torch.cuda.set_sync_debug_mode("default")
        self.catching.__exit__(*raised)

    @property
    def count(self):
        return sum("called a synchronizing" in str(one.message) for one in self.caught)


@on_a_gpu
@pytest.mark.parametrize(("agent", "env", "waits"), UPDATES)
def test_an_update_waits_as_counted_on_the_cpu(agent, env, waits, device):
    trainer = made({**env, "num_envs": 4}, agent, device)
    trainer.update()
    counts = []
    for _ in range(3):
        with Waits() as counted:
            trainer.update()
        counts.append(counted.count)
    assert set(counts) == {waits}


@on_a_gpu
def test_waits_are_seen(device):
    x = torch.arange(4.0, device=device)
    for wait in (lambda: x[0].item(), lambda: x.tolist(), lambda: x[x > 1], lambda: torch.tensor([1.0], device=device)):
        with Waits() as counted:
            wait()
        assert counted.count
    with Waits() as counted:
        x[x.long()], torch.where(x > 1, x, 0), x.cumsum(0), torch.zeros(3, device=device)
    assert counted.count == 0


@on_a_gpu
@pytest.mark.parametrize("name", ["ppo", "frame_stack", "supervised", "vae"])
def test_neither_acting_nor_stepping_waits(name, device):
    trainer = made(*RUNS[name], device)
    trainer.update()
    torch.cuda.set_sync_debug_mode("error")
    try:
        collect(trainer.agent, trainer.env, trainer.collector.obs, trainer.agent.horizon, trainer.collector.state)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_both
@pytest.mark.parametrize("place", ["loss", "reward"])
def test_what_is_not_finite_is_found(monkeypatch, place, device):
    """On a GPU at the next log; until then no step is taken."""
    trainer = made({"name": "cartpole", "num_envs": 8}, PPO, device, total_steps=2000, log_every=500)
    trainer.update()
    if place == "loss":
        with torch.no_grad():
            trainer.agent.value_head.bias.fill_(torch.nan)
    else:
        trainer.env._reward[3] = torch.nan
    before = trainer.agent.policy_head.weight.clone()
    with pytest.raises(NonFiniteError):
        trainer.fit()
    assert trainer.steps <= 600
    assert torch.equal(trainer.agent.policy_head.weight, before)


IMAGE = (1, 28, 28)
SHAPES = {
    "mlp": {"in_shape": (6,), "batch_norm": True}, "policy_value": {"in_shape": (2, 6, 7)},
    "policy_value_resnet": {"in_shape": (2, 6, 7), "channels": 8}, "nature_cnn": {"in_shape": (4, 84, 84)},
    "impala_cnn": {"in_shape": (3, 16, 16)}, "multi_input": {"in_shape": {"a": (3,), "b": (1, 40, 40)}},
    "gru": {"in_shape": (5,)}, "lstm": {"in_shape": (5,)}, "frame_stack": {"in_shape": (5,), "frames": 1},
}  # fmt: skip


def used(network, x):
    """Output and gradients; the latter by an optimizer's step, whose kernels need them in the layout of the weights."""
    optimizer = Adam(network.parameters(), 0.0)
    y = network(x)
    y.square().mean().backward()
    optimizer.step()
    return [y, *(param.grad for param in network.parameters() if param.grad is not None)]


@on_both
@pytest.mark.parametrize("name", sorted({*entry_points(group="rlcore.networks").names} - {"encoder_of"}))
def test_a_network_computes_as_on_the_cpu(name, device):
    """Up to float32 rounding of sums in another order, without TF32."""
    settings = dict(SHAPES.get(name, {"in_shape": IMAGE}))
    in_shape = settings.pop("in_shape")
    out = None if issubclass(registry.networks[name], Recurrent) else 10
    network = networks.build(name, in_shape, out, **settings)
    x = {key: torch.rand(6, *shape) for key, shape in in_shape.items()} if isinstance(in_shape, dict) else None
    x = torch.rand(6, *in_shape) if x is None else x
    if out is None:
        starts = torch.rand(4, 6) < 0.3
        if name == "frame_stack":
            state = torch.zeros(6, 0, *in_shape), torch.zeros(6, dtype=torch.bool)
        else:
            state = network.initial_state(6)
        x = Sequence(torch.rand(4, 6, *in_shape), starts, state)
    expected = used(network, x)
    for norm in network.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.reset_running_stats()
    network.zero_grad()
    got = used(network.to(device), tree_map(lambda leaf: leaf.to(device), x))
    for a, b in zip(got, expected, strict=True):
        assert a.device.type == device
        torch.testing.assert_close(a.cpu(), b, rtol=1e-3, atol=1e-4 * b.abs().max().item() + 1e-6)


@on_both
def test_passes_with_dropout_are_the_same_each_time_and_near_the_cpus(device):
    """The mean of 400 passes, whose standard error is below 0.02 where a probability's deviation is below 0.4."""
    network = {"name": "mlp", "hidden": [32], "dropout": 0.3}
    agents = [made(DIGITS, {"name": "supervised", "network": network}, where).agent for where in ("cpu", device)]
    obs = torch.rand(16, 1, 8, 8)
    asked = [MCDropout(agent, 400) for agent in agents]
    here, there = asked[0].uncertainty(obs), asked[1].uncertainty(obs.to(device))
    again = asked[1].uncertainty(obs.to(device))
    same(tuple(again), tuple(there))
    torch.testing.assert_close(there.probabilities.cpu(), here.probabilities, atol=0.1, rtol=0)


FITTED = {
    "ppo": (*RUNS["ppo"], ["episodes"]),
    "supervised": (DIGITS, {"name": "supervised", "network": {**LENET, "dropout": 0.1}},
                   ["confusion", "examples", "filters", "uncertainty"]),
    "circles": ({"name": "supervised", "dataset": "circles", "num_envs": 32}, {"name": "supervised"}, ["boundary"]),
    "vae": (RUNS["vae"][0], {"name": "autoencoder", "network": {"name": "vae", "hidden": [16]}},
            [{"name": "bound", "num": 20}, "elbo", "latent", {"name": "inpainting", "steps": 3}, "disentanglement",
             "projector"]),
    "alphazero": ({**GAMES, "positions": "all"}, RUNS["puct"][1],
                  [{"name": "matches", "num": 2, "opponents": [{"name": "uct", "simulations": 4}]},
                   {"name": "elo", "num": 2, "players": [{"name": "random"}]}]),
}  # fmt: skip


def fitted(name, device, run):
    env, agent, reports = FITTED[name]
    trainer = made(env, agent, device, run, total_steps=200, reports=reports, log_every=64, eval_episodes=8)
    report = trainer.fit()
    trainer.close()
    return trainer, report


@pytest.mark.parametrize(
    ("name", "device"),
    [("ppo", "cpu"), *(pytest.param(name, *GPU.values, marks=GPU.marks) for name in FITTED)],
)
def test_a_run_logs_evaluates_reports_and_is_loaded(tmp_path, name, device):
    trainer, report = fitted(name, device, tmp_path / "run")
    assert report.scalars
    assert torch.tensor(list(trainer.figures.values())).isfinite().any()
    obs = tree_map(lambda x: x.cpu(), trainer.collector.obs)
    assert rlcore.load(tmp_path / "run", device="cpu").predict(obs).action.device.type == "cpu"


@on_a_gpu
def test_what_is_made_of_another_run_is_on_the_device(tmp_path, device):
    fitted("vae", "cpu", tmp_path / "codes")
    network = {"name": "encoder_of", "run": str(tmp_path / "codes"), "body": {"name": "mlp", "hidden": [8]}}
    made({**DIGITS, "action": "label"}, {**PPO, "network": network}, device).update()
    policy = made(VERSUS, {**PPO, "network": {"name": "mlp", "hidden": [8]}}, device, tmp_path / "policy")
    policy.update()
    policy.save("last")
    player = made(GAMES, {"name": "alphago", "policy": str(tmp_path / "policy"), "batch_size": 16}, device)
    for _ in range(2):
        player.update()
    legal = player.env.game.legal(player.obs)
    assert legal.gather(1, player.agent.search(player.obs, 4).action[:, None]).all()


@on_a_gpu
def test_devices_by_name(device):
    big = {"name": "ppo", "horizon": 8, "minibatch_size": None, "network": {"name": "mlp", "hidden": [512, 512]}}
    assert made(CART, big, "auto").env.device.type == "cuda"
    assert made(CART, PPO, "auto").env.device.type == "cpu"
    first = made(CART, PPO, "cuda:0")
    first.update()
    assert first.env.device == torch.device("cuda:0")
    assert "cuda" in first.circumstances()["device"]


@on_both
def test_a_device_that_is_not_there_is_one_line(device):
    with pytest.raises(InputError, match=r"there is no cuda:99; torch sees \d+ CUDA devices") as raised:
        choose_device("cuda:99")
    assert "\n" not in str(raised.value)


def program(*arguments, folder, out):
    """Runs benchmarks/gpu.py, with modules of a folder; its exit status, output and results."""
    path = os.pathsep.join(filter(None, [str(folder), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--out", str(out), *arguments]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120)
    return done, json.loads(out.read_text()) if out.exists() else None


def test_the_program_runs_every_part_on_the_cpu(tmp_path):
    done, results = program("--device", "cpu", "--tiny", folder=tmp_path, out=tmp_path / "tiny.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [one["part"] for one in results if "error" in one] == []
    names = [one["part"] for one in results]
    assert names[:2] == ["machine", "checks"]
    assert names[-2:] == ["profile_ppo", "profile_search"]
    assert all(one["per_second"] > 0 for one in results[2:-2])
    written = sorted(path.name for path in tmp_path.iterdir())
    stems = ["tiny.json", "tiny.md", "tiny_checks.txt", "tiny_profile_ppo.txt", "tiny_profile_search.txt"]
    assert written == stems
    rows = (tmp_path / "tiny.md").read_text()
    assert "| PPO, CartPole, 8 environments x 8 steps |" in rows
    assert "aten::addmm" in (tmp_path / "tiny_profile_ppo.txt").read_text()


PLANTED = """
import os, time

def jobs(device, tiny):
    limits = {"fails": 9.0, "hangs": 1.0, "works": 9.0, "dies": 9.0, "works on": 9.0, "is late": 9.0}
    return [(name, device, limit) for name, limit in limits.items()]

def run(name, on, out, device, tiny):
    if name == "fails":
        raise ValueError("planted")
    if name in ("hangs", "is late"):
        time.sleep(60)
    if name == "dies":
        os._exit(7)
    return {"what": "nothing", "per_second": 2.0, "unit": "steps"}
"""


def test_a_part_that_fails_hangs_or_dies_does_not_stop_the_others(tmp_path):
    (tmp_path / "planted.py").write_text(PLANTED)
    done, results = program("--parts", "planted", "--seconds", "4", folder=tmp_path, out=tmp_path / "out.json")
    assert done.returncode == 1
    errors = {one["part"]: one.get("error") for one in results}
    assert errors.pop("is late").startswith(("cut off after", "no time was left"))
    assert errors == {
        "fails": "ValueError: planted (planted.py:10)",
        "hangs": "cut off after 1 s",
        "works": None,
        "dies": "the process died, exit code 7",
        "works on": None,
    }
    assert "FAILED: ValueError: planted" in done.stdout
    assert (tmp_path / "out.md").read_text().count("| nothing |") == 2


def test_a_worker_that_cannot_start_is_told(tmp_path):
    (tmp_path / "planted.py").write_text("raise OSError('no driver')")
    done, results = program("--parts", "planted", folder=tmp_path, out=tmp_path / "out.json")
    assert done.returncode == 1
    assert [one["error"] for one in results] == ["the worker did not start: OSError: no driver (planted.py:1)"]
    assert "Traceback" not in done.stderr


def test_missing_modules_are_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name in ('gymnasium', 'pooch') else find(name, *rest)\n"
    )
    done, results = program(folder=tmp_path, out=tmp_path / "out.json")
    assert done.returncode == 1
    assert results is None
    assert done.stderr.strip() == (
        "missing modules: gymnasium, pooch; put them on PYTHONPATH, nothing is installed here"
    )


def test_kernels_and_waits_are_counted(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from gpu_parts import counted

    def event(name, device, took=5):
        return SimpleNamespace(name=name, device_type=device, time_range=SimpleNamespace(elapsed_us=lambda: took))

    on_host = [event(name, DeviceType.CPU) for name in ("cudaLaunchKernel", "cudaStreamSynchronize", "cudaMalloc")]
    on_card = [event(name, DeviceType.CUDA) for name in ("gemm", "void add<float>", "Memcpy DtoH", "Memset")]
    assert counted([*on_host, *on_card]) == (2, 10.0, 1)

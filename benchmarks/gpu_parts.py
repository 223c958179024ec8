"""The parts of gpu.py, which a worker runs: checks, figures and profiles.

A figure is steps per second of wall time over at least `MEASURED` seconds, after a warm-up; an update is
``Trainer.update``, or one call of what is measured. On a GPU, a profiler that sees only the device then counts over a
few updates more: kernels, waits (``cudaStreamSynchronize``), and the time that kernels took, as a share of an update's
time without the profiler.
"""

import gc
import itertools
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import gymnasium
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from rlcore.agent import AgentChoice
from rlcore.device import set_threads
from rlcore.environment import Environment, StepResult
from rlcore.envs.cartpole import CartPole
from rlcore.envs.games import ConnectFour
from rlcore.envs.games.game_env import GameEnv
from rlcore.envs.games.selfplay import SelfPlayEnv
from rlcore.search import gumbels, puct, search, search_gumbel
from rlcore.supervised.datasets import Dataset, from_arrays
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.reconstruction import ReconstructionEnv
from rlcore.trainer import Trainer
from rlcore.uncertainty.mc_dropout import MCDropout

MEASURED = {"cuda": 2.5, "cpu": 1.5}
"""Seconds of one measurement, by device."""
WARMUP = {"cuda": 2, "cpu": 1}
"""Updates before it: the first choose kernels and take memory."""
CONSTANTLY = 10**12
"""Total steps of a run whose schedules stand still."""
WAITING = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy", "Memcpy", "aten::nonzero", "aten::item")
"""Beginnings of what a profiler calls waits, their causes, and copies."""


class Work(NamedTuple):
    """What is measured."""

    update: Callable[[], int]  # does one, and returns its number of steps
    unit: str  # of a step


class Part(NamedTuple):
    """A part, with its sizes: keyword arguments of ``make``."""

    make: Callable[..., Any]
    what: str  # a format of the sizes
    full: dict[str, Any] = {}  # noqa: RUF012
    tiny: dict[str, Any] = {}  # noqa: RUF012
    cpu: dict[str, Any] = {}  # noqa: RUF012 (where the full ones take too long on a CPU)
    limit: float = 25.0  # seconds

    def sizes(self, device: str, tiny: bool) -> dict[str, Any]:
        """Those on a device."""
        return self.full | (self.tiny if tiny else self.cpu if device == "cpu" else {})


def training(env: Environment, unit: str, **agent: Any) -> Work:
    """Updates of an agent in an environment."""
    torch.manual_seed(1)
    trainer = Trainer(AgentChoice.model_validate(agent).build(env), env, total_steps=CONSTANTLY)
    _choose_threads(trainer.agent)

    def update() -> int:
        before = trainer.steps
        trainer.update()
        return trainer.steps - before

    return Work(update, unit)


def _choose_threads(network: nn.Module) -> None:
    set_threads("auto", sum(param.numel() for param in network.parameters()))


def quarters(num_envs: int, horizon: int) -> dict[str, Any]:
    """Four minibatches of a rollout, four epochs."""
    return {"horizon": horizon, "minibatch_size": num_envs * horizon // 4, "num_epochs": 4}


def ppo(device: torch.device, num_envs: int, horizon: int) -> Work:
    env = CartPole(CartPole.Settings(num_envs=num_envs), device)
    return training(env, "steps", name="ppo", **quarters(num_envs, horizon))


def recurrent_ppo(device: torch.device, num_envs: int, horizon: int) -> Work:
    env = CartPole(CartPole.Settings(num_envs=num_envs, velocities=False), device)
    return training(env, "steps", name="recurrent_ppo", network={"name": "lstm"}, **quarters(num_envs, horizon))


class Pixels(Environment):
    """Frames that are drawn from a stock: what an Atari game shows, at no cost of its own."""

    def __init__(self, settings: Environment.Settings, device: torch.device):
        super().__init__(settings.num_envs, Box(0, 255, (4, 84, 84), "uint8"), Discrete(4), device)
        self._stock = torch.randint(256, (256, 4, 84, 84), dtype=torch.uint8, device=device)
        self._reward = torch.ones(self.num_envs, device=device)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        return self._stock[torch.randint(len(self._stock), (self.num_envs,), device=self.device)], {}

    def step(self, actions: Tensor) -> StepResult:
        terminated = torch.rand(self.num_envs, device=self.device) < 0.01
        return self.reset()[0], self._reward, terminated, torch.zeros_like(terminated), {}


def pixels(device: torch.device, num_envs: int, horizon: int) -> Work:
    env = Pixels(Environment.Settings(num_envs=num_envs), device)
    network = {"name": "nature_cnn"}
    return training(env, "steps", name="ppo", network=network, shared=True, **quarters(num_envs, horizon))


def images(num: int) -> Dataset:
    """Random bytes of MNIST's shape, which are as fast as MNIST."""
    return from_arrays(torch.randint(0, 256, (num, 1, 28, 28), dtype=torch.uint8), torch.arange(num) % 10)


def lenet(device: torch.device, batch: int, num: int) -> Work:
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=batch, test_fraction=0), device, images(num))
    return training(env, "examples", name="supervised", network={"name": "lenet"})


def vae(device: torch.device, batch: int, num: int) -> Work:
    env = ReconstructionEnv(ReconstructionEnv.Settings(num_envs=batch, test_fraction=0), device, images(num))
    return training(env, "examples", name="autoencoder", network={"name": "vae", "latent": 20})


def mc_dropout(device: torch.device, batch: int, passes: int) -> Work:
    env = SupervisedEnv(SupervisedEnv.Settings(num_envs=1, test_fraction=0), device, images(100))
    network = {"name": "lenet", "dropout": 0.1}
    agent = AgentChoice.model_validate({"name": "supervised", "network": network}).build(env).to(device)
    _choose_threads(agent)
    obs = torch.randint(0, 256, (batch, 1, 28, 28), dtype=torch.uint8, device=device)
    asked = MCDropout(agent, passes)

    def update() -> int:
        asked.uncertainty(obs)
        return batch

    return Work(update, "images")


def searching(device: torch.device, kind: str, games: int, simulations: int) -> Work:
    """Searches of connect four from the empty board, with a network of three small layers."""
    torch.manual_seed(1)
    game = ConnectFour()
    layers = nn.Linear(84, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 8)
    network = nn.Sequential(nn.Flatten(), *layers).to(device)
    _choose_threads(network)
    state = game.initial(games, device)

    def evaluate(state: Tensor) -> tuple[Tensor, Tensor]:
        outputs = network(game.observe(state))
        return outputs[:, :7], outputs[:, 7].tanh()

    def update() -> int:
        if kind == "puct":
            search(game, state, evaluate, simulations, puct())
        else:
            search_gumbel(game, state, evaluate, simulations, gumbels(game.legal(state)))
        return games * simulations

    return Work(update, "simulations")


def selfplay(device: torch.device, games: int, horizon: int, simulations: int, batch: int) -> Work:
    """As in ``connect4_alphazero``, without its matches; the replay already holds a batch."""
    env = SelfPlayEnv(GameEnv.Settings(num_envs=games, game="connect4", random_openings=30), device)
    work = training(
        env, "positions", name="alphazero", horizon=horizon, simulations=simulations, batch_size=batch, passes=3,
        network={"name": "policy_value_resnet", "channels": 32, "blocks": 3},
    )  # fmt: skip
    for _ in range(3):  # most games end within so many rollouts
        work.update()
    return work


def launches(device: torch.device) -> Work:
    """The smallest kernel again and again: how fast the host can be at all."""
    x = torch.zeros((), device=device)

    def update() -> int:
        for _ in range(1000):
            x.add_(1)
        return 1000

    return Work(update, "operations")


PPO = "PPO, CartPole, {num_envs:,} environments x {horizon} steps"
IMAGES = "{num:,} images of 28 x 28, batch {batch}"
SEARCH = "search ({kind}), connect four, {games:,} games x {simulations} simulations"
TINY_ENVS, TINY_GAMES = {"num_envs": 8, "horizon": 8}, {"games": 8, "simulations": 4}
FIGURES = {
    "launches": Part(launches, "x += 1, one number"),
    **{
        f"ppo_{num_envs}": Part(ppo, PPO, {"num_envs": num_envs, "horizon": 128}, TINY_ENVS, {"horizon": horizon})
        for num_envs, horizon in ((1024, 128), (8192, 32), (65536, 4))
    },
    "pixels": Part(
        pixels, "PPO, nature_cnn, 4 frames of 84 x 84, {num_envs} environments x {horizon} steps",
        {"num_envs": 128, "horizon": 128}, {"num_envs": 2, "horizon": 4}, {"num_envs": 8, "horizon": 16},
    ),
    "recurrent_ppo": Part(
        recurrent_ppo, "recurrent PPO (lstm), CartPole, {num_envs:,} environments x {horizon} steps",
        {"num_envs": 1024, "horizon": 32}, TINY_ENVS,
    ),
    "lenet": Part(lenet, f"LeNet, {IMAGES}", {"batch": 64, "num": 60_000}, {"num": 200}),
    "vae": Part(vae, f"VAE 784-400-20, {IMAGES}", {"batch": 128, "num": 60_000}, {"num": 200}),
    "mc_dropout": Part(
        mc_dropout, "LeNet, {passes} passes of {batch} images", {"batch": 256, "passes": 50}, {"batch": 4, "passes": 2}
    ),
    **{
        f"{kind}_{games}": Part(
            searching, SEARCH, {"kind": kind, "games": games, "simulations": 64}, TINY_GAMES, {"games": 512}
        )
        for kind, games in itertools.product(("puct", "gumbel"), (512, 4096))
    },
    "selfplay": Part(
        selfplay, "AlphaZero, connect four, {games} games x {horizon} moves x {simulations} simulations",
        {"games": 256, "horizon": 16, "simulations": 16, "batch": 512}, TINY_GAMES | {"horizon": 4, "batch": 8},
        {"games": 32}, limit=40.0,
    ),
}  # fmt: skip


def measured(work: Work, device: torch.device, seconds: float) -> dict[str, Any]:
    """The speed of something, and on a GPU what the card does meanwhile."""
    for _ in range(WARMUP[device.type]):
        work.update()
    _wait(device)
    steps, updates, start = 0, 0, time.perf_counter()
    while not updates or time.perf_counter() - start < seconds:
        steps, updates = steps + work.update(), updates + 1
    _wait(device)
    took = time.perf_counter() - start
    found = {"per_second": steps / took, "unit": work.unit, "updates": updates, "milliseconds": 1e3 * took / updates}
    if device.type == "cpu":
        return found | {"threads": torch.get_num_threads()}
    found["memory"] = torch.cuda.max_memory_allocated() / 2**20
    try:
        return found | seen_on_card(work, took / updates)
    except (AssertionError, RuntimeError) as error:  # the speed is no less true without a profiler
        return found | {"unprofiled": str(error)}


def seen_on_card(work: Work, seconds: float) -> dict[str, float]:
    """What a profiler sees of some updates, which take so many seconds each without it."""
    num = 1 if seconds > 0.1 else 3
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(num):
            work.update()
        torch.cuda.synchronize()
    kernels, busy, waits = counted(profiler.events())
    if not kernels:
        raise RuntimeError("the profiler saw no kernels")
    return {"kernels": kernels / num, "busy": busy / 1e6 / num / seconds, "waits": waits / num}


def counted(events: Iterable[Any]) -> tuple[int, float, int]:
    """Kernels, the microseconds that they took, and waits for the card, among the events of a profiler."""
    kernels, busy, waits = 0, 0.0, 0
    for event in events:
        if event.device_type == DeviceType.CUDA and not event.name.startswith("Mem"):  # neither Memcpy nor Memset
            kernels, busy = kernels + 1, busy + event.time_range.elapsed_us()
        waits += event.name == "cudaStreamSynchronize"
    return kernels, busy, waits


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def profiled(work: Work, device: torch.device, path: Path) -> dict[str, Any]:
    """One update in a profiler, as text: waits and copies, and what took most time on the card and on the host."""
    work.update()
    _wait(device)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as profiler:
        work.update()
        _wait(device)
    averages = profiler.key_averages()
    waits = [
        f"{one.key:36s}{one.count:8,d}{one.cpu_time_total / 1e3:12.2f}{one.device_time_total / 1e3:12.2f}"
        for one in averages
        if one.key.startswith(WAITING)
    ]
    device_table, host_table = (
        averages.table(sort_by=key, row_limit=30, max_name_column_width=80)
        for key in ("self_device_time_total", "self_cpu_time_total")
    )
    head = f"{'waits and copies':36s}{'calls':>8s}{'host, ms':>12s}{'card, ms':>12s}"
    text = "\n".join([head, *waits, "", "on the card", device_table, "", "on the host", host_table, ""])
    path.write_text(text, encoding="utf-8")
    return {"profile": path.name}


def checks(device: str, path: Path) -> dict[str, Any]:
    """The tests marked gpu; their output is written as they run."""
    xml = path.with_suffix(".xml")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "tests/test_gpu.py",
        "tests/test_distributed.py",
        "-m",
        "gpu",
        "-v",
        "-rfE",
        "--tb=short",
    ]
    command += ["--color=no", "--durations=10", "-p", "no:cacheprovider", f"--junitxml={xml}"]
    python_path = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": python_path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # whatever is there
    with open(path, "w", encoding="utf-8") as file:
        status = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=env).returncode
    if not xml.exists():
        raise RuntimeError(f"pytest ended with status {status}; see {path.name}")
    cases = list(ElementTree.parse(xml).getroot().iter("testcase"))
    xml.unlink()
    failed = [one.get("name") for one in cases if one.find("failure") is not None or one.find("error") is not None]
    skipped = sum(one.find("skipped") is not None for one in cases)
    found = {"passed": len(cases) - len(failed) - skipped, "skipped": skipped, "output": path.name}
    if failed:
        found["error"] = f"{len(failed)} of {len(cases)} tests failed: {', '.join(map(str, failed))}"
    elif device == "cuda" and not found["passed"]:
        found["error"] = f"no test ran; see {path.name}"
    return found


def machine(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    found = {
        "processor": f"{processor}, {os.cpu_count()} cores", "python": platform.python_version(),
        "torch": str(torch.__version__), "gymnasium": gymnasium.__version__,
    }  # fmt: skip
    if device == "cuda":
        found["card"], found["cuda"] = torch.cuda.get_device_name(), torch.version.cuda
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            found["driver"] = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
        except (OSError, subprocess.TimeoutExpired):
            found["driver"] = "unknown"
    return found


PROFILES = {"profile_ppo": "ppo_1024", "profile_search": "puct_512"}
"""Parts, and the figures whose work they profile."""


def jobs(device: str, tiny: bool) -> list[tuple[str, str, float]]:
    """Name, device and limit of each part, in their order.

    Raises:
        RuntimeError: there is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch sees no CUDA device here")
    here = [("machine", device, 30.0), ("checks", device, 150.0)]
    here += [(name, device, part.limit) for name, part in FIGURES.items()]
    here += [(name, device, 60.0) for name in PROFILES]
    return here + ([] if device == "cpu" else [(name, "cpu", part.limit) for name, part in FIGURES.items()])


def run(name: str, on: str, out: Path, device: str, tiny: bool) -> dict[str, Any]:
    """Runs a part.

    Args:
        name: of the part.
        on: cuda or cpu.
        out: beside which files are written.
        device: the one that everything is about.
        tiny: whether in the smallest sizes.
    """
    if name == "machine":
        return machine(device)
    path = out.with_name(f"{out.stem}_{name}.txt")
    if name == "checks":
        return checks(device, path)
    gc.collect()  # what is left of the part before
    if on == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    part = FIGURES[PROFILES.get(name, name)]
    sizes = part.sizes(on, tiny)
    work = part.make(torch.device(on), **sizes)
    if name in PROFILES:
        return profiled(work, torch.device(on), path)
    found = measured(work, torch.device(on), 0.0 if tiny else MEASURED[on])
    return {"what": part.what.format(**sizes), **found}

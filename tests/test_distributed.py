"""Several processes are one run: the same parameters, moments and episodes, in seconds; and how they end together."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ranks
import torch
from ranks import EQUAL
from trainers import TRAINERS

from rlcore import cli, commands, distributed
from rlcore.commands import processes
from rlcore.errors import InputError
from rlcore.mesh import DistributedError, Mesh

HERE = Path(__file__).parent
PPO = """\
env: {name: cartpole, num_envs: 4}
agent: {name: ppo, horizon: 16, minibatch_size: 32, normalize_observations: true, network: {name: mlp, hidden: [8]}}
trainer: {total_steps: 1_024, eval_episodes: 4, checkpoint_every: 256}
"""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def launched(words, size=2, **settings):
    """Processes as torchrun would launch them."""
    port = str(free_port())
    common = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env={**os.environ, **{k: str(v) for k, v in common.items()}, "RANK": str(r), "LOCAL_RANK": str(r)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **settings,
        )
        for r in range(size)
    ]


def ended(processes):
    """Exit statuses, and what was printed and told."""
    texts = [process.communicate(timeout=120) for process in processes]
    return [process.returncode for process in processes], *("".join(each) for each in zip(*texts, strict=True))


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of two ranks found."""
    out = tmp_path_factory.mktemp("ranks")
    statuses, _, told = ended(launched([HERE / "ranks.py", out]))
    assert statuses == [0, 0], told
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture
def config(workdir):
    (workdir / "small.yaml").write_text(PPO)
    return workdir / "small.yaml"


# --- the same run ---


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_learn_what_one_does(found, name):
    """2 x N / 2 environments against 1 x N, after 8 updates with the same draws."""
    here = ranks.outcome(*EQUAL[name](name))
    for there in (rank[name] for rank in found):
        assert (there["parameters"] - here["parameters"]).abs().max() <= (1e-5 if name == "trpo" else 1e-6)
        for a, b in zip(there["moments"], here["moments"], strict=True):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-12)
        means, count, latest = here["episodes"]
        rel = 1e-5 if name in ("supervised", "vae") else 1e-12  # there a reward is a function of the parameters
        assert there["episodes"][0] == pytest.approx(means, rel=rel)
        assert there["episodes"][1] == count
        assert torch.allclose(there["episodes"][2], latest, rtol=rel)
        assert there["steps"] == here["steps"]
        loss = next(name for name in ("loss", "value_loss", "score") if f"train/{name}" in here["metrics"])
        loss = f"train/{loss}"
        assert there["metrics"][loss] == pytest.approx(here["metrics"][loss], rel=1e-4)
    assert torch.equal(found[0][name]["parameters"], found[1][name]["parameters"])


@pytest.mark.parametrize("name", TRAINERS)
def test_resuming_goes_on_bit_for_bit(found, name):
    """Six updates, and three and three, each process from its own replay, generators and episodes."""
    assert found[0][f"resumed {name}"] is None


def test_rows_weigh_the_same_on_whatever_rank(found):
    """Of the rows (0, 1), (2, 3), ..., (14, 15), three on one rank and five on the other."""
    for rank in found:
        theta, loss = rank["weights"]
        assert theta.tolist() == pytest.approx([-7, -8])
        assert loss == pytest.approx(7.5)


def test_seeds_follow_from_global_numbers(found):
    assert torch.equal(torch.cat([rank["starts"] for rank in found]), ranks.starts(4))
    assert len(set(ranks.starts(4).tolist())) == 4


def test_all_begin_with_the_same_parameters(found):
    assert torch.equal(found[0]["alike"], found[1]["alike"])
    assert all("have other parameters" in rank["other"] for rank in found)


def test_what_of_all_rows_is_no_mean(found):
    """The variance of two groups has that between their means; weights of a batch are by its largest one."""
    assert [rank["batch norm"] for rank in found] == [(1.0, 2.0)] * 2
    assert [rank["largest"] for rank in found] == [1.0, 1.0]


def test_each_rank_draws_its_own(found):
    """Else all would explore alike; the first as one process alone."""
    assert torch.equal(found[0]["draws"], ranks.draws())
    assert not torch.isclose(found[0]["draws"], found[1]["draws"]).any()


def test_exchanges_are_counted(found):
    """Two epochs of one minibatch: their advantages, gradients and the KL after the first; three running moments; and
    at first the eight parameters."""
    calls = found[0]["ppo"]["calls"]
    assert calls == {
        "parameters": 8, "advantages": 16, "gradient": 16, "mean": 8, "moments": 24, "end": 8, "episodes": 2,
        "metrics": 1,
    }  # fmt: skip


def test_ranks_that_come_apart_say_so(found):
    line = (
        r"the processes have come apart, .*: rank 0 is at 'left' \(exchange (\d[\d,]*), 8 bytes\); "
        r"rank 1 is at 'right' \(exchange \1, 72,008 bytes\)"
    )
    assert all(re.fullmatch(line, rank["apart"]) for rank in found)


def test_what_cannot_be_shared(found):
    assert found[1]["shares"] == "env.num_envs: 3 cannot be shared equally by 2 processes; choose a multiple"


class Store(dict):
    """torch's, for threads."""

    def set(self, key, value):
        self[key] = value

    def get(self, key):
        while key not in self:
            time.sleep(0.001)
        return self[key].encode()


def meshed(size, work):
    """What work(mesh) returns, or raises, in a thread for each rank."""
    store = Store()

    def one(rank):
        mesh = Mesh(rank, size, store, "127.0.0.1")
        try:
            return work(mesh)
        except DistributedError as error:
            return str(error)
        finally:
            mesh.close()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


@pytest.mark.parametrize("numbers", [1, 2**14, 2**20])
def test_all_ranks_of_a_mesh_get_all_messages(numbers):
    """Also such as the system does not take before they are read."""

    def work(mesh):
        found = np.zeros((mesh.size, numbers), np.int64)
        for turn in range(3):
            found[mesh.rank] = 10 * turn + mesh.rank
            mesh.begin("turn", found[0].nbytes)
            mesh.exchange([memoryview(row).cast("B") for row in found])
            assert (found == 10 * turn + np.arange(mesh.size)[:, None]).all()
        return mesh.count

    assert meshed(4, work) == [3] * 4


@pytest.mark.parametrize("small", [8, 2**20])
@pytest.mark.parametrize("other", [0, 1])
def test_ranks_of_a_mesh_that_come_apart_both_say_so(small, other):
    def work(mesh):
        size, name = (2**21, "large") if mesh.rank == other else (small, "small")
        mesh.begin(name, size)
        mesh.exchange([bytearray(size), bytearray(size)])

    said = meshed(2, work)
    assert said[0] == said[1]
    assert "is at 'large' (exchange 1, 2,097,152 bytes)" in said[0]
    assert f"is at 'small' (exchange 1, {small:,} bytes)" in said[0]


def test_a_mesh_takes_nobody_else_in():
    """Who does not know the token is sent away."""
    store, size = Store(), 2

    def stranger():
        with socket.create_connection((store.get("rlcore/host/0").decode(), int(store.get("rlcore/mesh/0")))) as one:
            one.sendall(bytes(20))
            return one.recv(1)

    def rank(number):
        mesh = Mesh(number, size, store, "127.0.0.1")
        mesh.begin("hello", 0)
        mesh.exchange([b"", b""])
        mesh.close()

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(rank, 0)
        assert pool.submit(stranger).result(timeout=30) == b""
        second = pool.submit(rank, 1)
        first.result(timeout=30)
        second.result(timeout=30)


def test_sums_of_ranks_that_are_no_power_of_two():
    """Three ranks have the same bits, of numbers, of more than the system takes at once, and of their moments."""
    program = """
import torch
from rlcore import distributed
with distributed.joined():
    torch.manual_seed(distributed.rank())
    x = torch.randn(50_000)
    all_of_it = distributed.all_gather("x", x)
    distributed.all_reduce("sum", x)
    assert torch.allclose(x, all_of_it.sum(0), atol=1e-6)
    assert (distributed.all_gather("sums", x) == x).all()
    distributed.weigh(distributed.rank() + 1)
    assert distributed.mean(torch.tensor(6.0 * distributed.rank())) == 8
    rows = torch.split(torch.arange(12.0).view(6, 2) + 1e6, [1, 2, 3])[distributed.rank()]
    count, mean, var = distributed.moments(rows)
    assert (count, *mean.tolist()) == (6, 1e6 + 5, 1e6 + 6) and torch.allclose(var, torch.full((2,), 70 / 6).double())
    assert distributed.all_gather_object(distributed.rank()) == [0, 1, 2]
"""
    statuses, _, told = ended(launched(["-c", program], size=3))
    assert statuses == [0, 0, 0], told


def test_one_process_alone():
    """It is given back what it gives, and asks nobody."""
    x = torch.randn(3, requires_grad=True)
    assert distributed.mean(x) is x
    assert distributed.broadcast(x) is x
    assert distributed.total(3) == distributed.least(3) == 3
    assert distributed.gather_object(x) == distributed.all_gather_object(x) == [x]
    assert distributed.share(7, "n") == 7
    assert (distributed.rank(), distributed.size(), distributed.is_main()) == (0, 1, True)
    with distributed.joined():
        assert distributed.size() == 1
    assert not distributed.calls


# --- the command line ---


@pytest.fixture
def command(monkeypatch, capfd):
    """The command line in this process, with what the processes that it starts print: exit status, output, errors."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["rlcore", *map(str, words)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0), *capfd.readouterr()

    return call


def test_train_resume_and_another_number_of_processes(config, command):
    status, out, err = command("train", config, "--run-dir", "run", "--processes", 2, "trainer.stop_at=512")
    assert status == 0, err
    assert out.count("small: run") == out.count("stopped at step 512") == 1
    assert json.loads(Path("run/result.json").read_text())["steps"] == 512
    assert "bit-identical" not in command("resume", "run", "--processes", 2, "trainer.stop_at=768")[1]
    status, out, err = command("resume", "run")
    assert status == 0, err
    assert "the run had 2 processes, has 1: results will not be bit-identical" in out
    assert "after 1,024 steps" in out
    assert command("eval", "run", "--episodes", 2)[0] == 0
    out = command("resume", "run", "--processes", 2, "trainer.total_steps=1280")[1]
    assert "the run had 1 processes, has 2" in out
    assert json.loads(Path("run/result.json").read_text())["finished"] is True


def test_torchrun(config):
    """As it launches them; two nodes of one process each meet by its own rendezvous."""
    port = free_port()
    words = "-m", "rlcore", "train", config, "--run-dir", "run"
    nodes = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=1", *map(str, words)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    statuses, printed, told = ended(nodes)
    assert statuses == [0, 0], told
    assert printed.count("after 1,024 steps") == 1
    assert json.loads(Path("run/result.json").read_text())["finished"] is True


def running(config, *words, until="run/checkpoints/last.pt"):
    """Two processes that train for long, once they have saved."""
    long = "trainer.total_steps=10_000_000", "trainer.eval_every=null", "trainer.checkpoint_every=256"
    processes = launched(["-m", "rlcore", "train", config, "--run-dir", "run", *long, *words])
    for _ in range(600):
        if Path(until).is_file():
            return processes
        time.sleep(0.05)
    raise AssertionError(ended(processes))


def test_a_signal_before_it_begins_ends_all_at_once(config):
    """And shows no traceback: of a process that starts, or of those that wait for it."""
    words = "train", config, "--run-dir", "run", "--processes", 2, "trainer.total_steps=10_000_000"
    launcher = subprocess.Popen(
        [sys.executable, "-m", "rlcore", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    time.sleep(1.5)
    launcher.send_signal(signal.SIGINT)
    _, told = launcher.communicate(timeout=60)
    assert launcher.returncode != 0
    assert "Traceback" not in told


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_before_it_begins(config, rank, monkeypatch):
    """The launcher notices, and ends the others, which wait for it."""
    monkeypatch.setattr(processes, "GRACE", 1.0)

    def killed(children, signalled):
        children[rank].kill()
        return waited(children, signalled)

    waited = processes._waited
    monkeypatch.setattr(processes, "_waited", killed)
    status = processes.launch(2, ["train", str(config), "--run-dir", "run", "trainer.total_steps=10_000_000"])
    assert status == 128 + signal.SIGKILL


def test_other_commands_are_for_one_process(config, command, monkeypatch):
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2" if name.endswith("SIZE") else "0")
    status, out, err = command("eval", "run")
    assert status == 2
    assert "rlcore: eval: is for one process; torchrun is for train and resume" in err
    assert out == ""


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_saves_and_ends_all(config, rank, command):
    processes = running(config)
    processes[rank].send_signal(signal.SIGTERM)
    statuses, printed, told = ended(processes)
    assert statuses == [128 + signal.SIGTERM] * 2, told
    assert re.search(r"SIGTERM: saved at step [\d,]+; resume with: rlcore resume run --processes 2", printed)
    assert told == ""
    assert command("resume", "run", "trainer.total_steps=1024")[0] == 0


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_in_one_line(config, rank, command):
    processes = running(config)
    processes[rank].kill()
    statuses, _, told = ended(processes)
    assert statuses[1 - rank] == 2
    assert told == (
        f"rlcore: rank {1 - rank} has lost rank {rank}, which was killed or has failed; "
        "go on with rlcore resume RUN --processes 2\n"
    )
    assert command("resume", "run", "trainer.stop_at=512", "trainer.total_steps=10000")[0] == 0


OWN = """\
import rlcore
from rlcore import distributed
from rlcore.agents.ppo import PPO

@rlcore.registry.agents.register("failing")
class Failing(PPO):
    def learn(self, rollout):
        if distributed.rank() == 1 and rollout.progress > 0:
            raise KeyError("planted")
        return super().learn(rollout)
"""


def test_a_rank_that_raises_shows_its_traceback_once(config, workdir):
    (workdir / "own.py").write_text(OWN)
    config.write_text("imports: [own.py]\n" + PPO.replace("name: ppo", "name: failing"))
    statuses, _, told = ended(launched(["-m", "rlcore", "train", config, "--run-dir", "run"]))
    assert 0 not in statuses
    assert told.count("Traceback") == told.count("KeyError: 'planted'") == 1
    assert "has lost" not in told


def test_a_mistake_is_told_once(config, command):
    status, _, err = command("train", config, "--run-dir", "run", "--processes", 2, "agent.horizont=3")
    assert status == 2
    assert err.startswith("rlcore: command line: agent.horizont")
    assert err.count("\n") == 1
    err = command("train", config, "--run-dir", "run", "--processes", 2, "env.num_envs=3")[2]
    assert err == "rlcore: env.num_envs: 3 cannot be shared equally by 2 processes; choose a multiple\n"
    assert not Path("run").exists()


def test_what_goes_with_several_processes(monkeypatch):
    with pytest.raises(InputError, match="--seeds: each is a process of its own; leave out --processes"):
        commands.train("cartpole_ppo", [], None, 2, 1, processes=2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--processes: torchrun has launched several already"):
        commands.train("cartpole_ppo", [], None, None, 1, processes=2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_processes_on_gpus(config, command):
    """Each has one, as far as there are; two on one exchange by way of the CPU."""
    words = "train", config, "--run-dir", "run", "--processes", 2, "device=cuda", "trainer.stop_at=512"
    status, out, err = command(*words)
    assert status == 0, err
    assert "device: cuda:0 (cuda: " in out
    status, out, err = command("resume", "run", "--processes", 2)
    assert status == 0, err
    assert "bit-identical" not in out

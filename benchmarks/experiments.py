"""The runs and tables of a page: python benchmarks/experiments.py uncertainty|latent [--list]

``uncertainty`` trains what docs/uncertainty.md is about and prints its tables, some three hours on two cores;
``latent`` what docs/latent.md is about, three to four hours, and draws codes.png. Runs go into ``runs/<page>``.
``--list`` prints the commands instead.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
EIGHT = "['0','1','2','3','4','5','6','7']"
AUTOENCODERS = (
    "mnist_vae",
    "mnist_vae_2d",
    "mnist_conv_vae",
    "mnist_beta_vae",
    "mnist_autoencoder",
    "mnist_vae_binarized",
)
FIVE = ("--seeds", "5", "--jobs", "2")
THREE = ("--seeds", "3", "--jobs", "2")
Command = list[str]


def train(config: str, folder: Path, *arguments: str) -> Command:
    """Runs of a config."""
    return [sys.executable, "-m", "rlcore", "train", config, *arguments, "--run-dir", str(folder)]


def program(path: str, *arguments: str) -> Command:
    """A program of this repository."""
    return [sys.executable, str(HERE.parent / path), *arguments]


def uncertainty(runs: Path) -> Iterator[Command]:
    """MC dropout and ensembles on all digits and on 0 to 7; answering or asking at three costs; doubtful policies."""
    trained = {"mnist_lenet_dropout": ["agent.network.batch_norm=false"], "mnist_lenet_ensemble": []}
    for suffix, classes in (("", "null"), ("-8", EIGHT)):
        for config, settings in trained.items():
            yield train(config, runs / f"{config}{suffix}", *settings, "threads=1", f"env.classes={classes}", *FIVE)
    yield train("mnist_ask_threshold", runs / "threshold", "threads=1", *THREE)
    for cost in (1, 9, 99):
        for agent in ("reinforce", "ppo"):
            yield train(f"mnist_ask_{agent}", runs / f"{agent}-{cost}", f"env.wrong={cost}", "threads=1", *THREE)
    yield train("cartpole_ppo_dropout", runs / "cartpole", *FIVE)
    yield program("benchmarks/doubt.py", str(runs))
    yield program("benchmarks/asking.py", str(runs))
    yield program("examples/uncertain_policy.py", *map(str, sorted((runs / "cartpole").glob("*-seed*"))))
    yield train("cartpole_ppo_ensemble", runs / "cartpole_ensemble", *FIVE)
    yield program("benchmarks/alarm.py", *map(str, sorted((runs / "cartpole_ensemble").glob("*-seed*"))))


def latent(runs: Path) -> Iterator[Command]:
    """Autoencoders, and REINFORCE on their codes and on pixels."""
    for name in AUTOENCODERS:
        yield train(name, runs / name, "threads=1", *FIVE)
    yield train("mnist_beta_vae", runs / "mnist_beta1_vae", "agent.beta=1", "threads=1", *FIVE)
    for beta in (0, 4):
        yield train("mnist_vae_2d", runs / f"mnist_vae_2d_beta{beta}", f"agent.beta={beta}")
    codes = runs / "codes"
    for seed in range(1, 6):
        given = (f"seed={seed}", "trainer.eval_every=100_000")
        for name in ("mnist_beta1_vae", "mnist_beta_vae"):
            encoder = max((runs / name).glob(f"*-seed{seed}"), default=runs / name / f"seed{seed}")
            body = "{name: mlp, hidden: [256, 128], activation: relu}"
            network = f"agent.network={{name: encoder_of, run: {encoder}, body: {body}}}"
            yield train("mnist_reinforce", codes / name / f"seed{seed}", *given, network)
        yield train("mnist_reinforce", codes / "pixels" / f"seed{seed}", *given)
    folders = [str(codes / name) for name in ("pixels", "mnist_beta1_vae", "mnist_beta_vae")]
    titles = ["784 pixels", "10-D code, beta 1", "10-D code, beta 4"]
    shown = ("--tag", "eval/accuracy", "--label", "accuracy", "--title", "REINFORCE on MNIST", "--from", "0.8")
    out = HERE.parent / "docs/images/codes.png"
    yield program("benchmarks/curves.py", *folders, "--names", *titles, *shown, "--out", str(out))


EXPERIMENTS = {"uncertainty": uncertainty, "latent": latent}


def main() -> None:
    """Runs an experiment's commands in order, or lists them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("--list", action="store_true", help="print the commands, and run none")
    given = parser.parse_args()
    for command in EXPERIMENTS[given.experiment](Path("runs") / given.experiment):
        if given.list:
            print(shlex.join(command))
        else:
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()

"""Random configs and overrides: shipped ones, made short, with settings changed, exchanged, misspelt, or nonsense."""

import random
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from fuzz.trial import Outcome, run
from rlcore import config, registry
from rlcore.settings import Choice
from rlcore.trainer import Trainer

NUM = 2000
ABSENT = ("mnist", "halfcheetah", "hopper", "lunarlander", "walker2d", "connect4_alphago")
BASES = [name for name in config.shipped_names() if not name.startswith(ABSENT)]
"""Configs whose data and environments are always there."""
SHORT = {
    "trainer.total_steps": 256, "trainer.epochs": 1, "trainer.eval_every": 10**6, "trainer.eval_episodes": 2,
    "trainer.max_episode_steps": 20, "env.num_envs": 8, "env.positions": None, "agent.horizon": 16,
    "agent.minibatch_size": 64, "agent.simulations": 4, "agent.eval_simulations": 4, "agent.batch_size": 16,
}  # fmt: skip
"""What makes a config short, where it has these settings; the first ones of the trainer are always set."""

NUMBERS = [
    "0", "1", "2", "-1", "0.5", "1e-40", "1e18", "1e40", "-1e18", "9223372036854775808", "1" + 400 * "0", "65536",
    "1_000", ".nan", ".inf", "-.inf", "0x10", "1e", "--1",
]  # fmt: skip
NONSENSE = [
    "null", "true", "no", "~", '""', '"3"', "[]", "{}", "[[]]", "[1, two, null]", "{name: mlp}", "{name: null}",
    "{name: [mlp]}", "{a: {b: {c: 1}}}", "auto", "last", "2001-01-01", "1:30", "[/y]", "'[bold]x[/bold]'", "'[/]'",
    "'%s {0} {'", "ünïcödé ✓ \u202e", r'"\0\x1b[31m"', r'"a\nb"', "\udcff", "x" * 300, "/dev/null", "/proc/none/x",
    "../none.npz", "none.py", "!!python/name:os.system ''", "!!int '3'", "!!binary aGk=", "!x y", "*none", "&a [*a]",
    "&a [1, &b 2, *b]", "<<", "|", ">-", "@", "`", "\t", "- 1", "{" * 30, "[" * 60 + "]" * 60, "[" * 20_000,
    "[" + "1," * 3_000 + "1]", "[" + "1," * 30_000 + "1]",
]  # fmt: skip
"""YAML for any setting."""
VALUES = {
    bool: ["true", "false"],
    int: [*3 * ["1", "2", "3", "8", "33"], "1000", "0", "-1", "100000", "1000000000", "9223372036854775807"],
    float: [*3 * ["0", "1e-3", "0.5", "0.99", "1"], "7.5", "-1", "1e-40", "1e30", "1e300"],
    type(None): ["null"],
    str: ["iris", "digits", "circles", "spirals", "tictactoe", "connect4", "CartPole-v1", "Pendulum-v1", "Acrobot-v1",
          "MountainCarContinuous-v0", "FrozenLake-v1", "best", "all", "x", "[/y]", "/proc/none/x", "none.npz"],
}  # fmt: skip
"""Plausible values of a type, and some that are large or out of range."""
LINES = [
    "a: &a [1]\nb: *a", "? [1]\n: 2", "? {}\n: 1", "1: 2", "'': 1", "<<: {seed: 2}", "---", "...", "%YAML 9.9", "\x00",
    "\ufeff", "\tx: 1", "imports: [none]", "imports: [none.py]", "seed: 3",
    "expect: {eval/return: {at_least: .nan, source: x}}",
]  # fmt: skip
"""Lines to add to a file."""
FOLDERS = [
    "[/y]", "[bold]x", "x" * 256, "ü ✓", "a/b/c", "run.pt", "a b", "%s{0}", "\udcff", "-", "", "config.yaml", "a\nb",
]  # fmt: skip
"""Names of run folders."""


def prepare(folder: Path) -> None:
    """Trials start from what is shipped."""


def trial(rng: random.Random, folder: Path, prepared: Path) -> Outcome:
    """Trains by a random config, or shows it; then perhaps evaluates or resumes."""
    tree = short(rng.choice(BASES))
    if rng.random() < 0.2:  # the agent or the environment of another one
        part, other = rng.choice(["agent", "env"]), short(rng.choice(BASES))
        tree[part] = other[part]
    raw: dict[str, str] = {}  # what stands for a text that no tree of values can be written as
    overrides = []
    for _ in range(rng.choice([1, 1, 2, 3])):
        key, text = setting(rng, tree)
        if rng.random() < 0.4:
            overrides.append(f"{key}={text}")
        else:
            mark = f"MARK{len(raw)}"
            raw[mark] = text
            put(tree, key, mark)
    if rng.random() < 0.1:
        misspell(rng, tree)
    text = yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, width=1000)
    for mark, value in raw.items():
        text = text.replace(mark, value)
    if rng.random() < 0.1:
        text = damaged(rng, text)
    if "async" in text + " ".join(overrides):  # a process each
        overrides.append("env.num_envs=2")
    (folder / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
    run_dir = rng.choice(FOLDERS) if rng.random() < 0.1 else "run"
    if rng.random() < 0.15:
        return run(["show", "config.yaml", *overrides], folder)
    outcome = run(["train", "config.yaml", "--run-dir", run_dir, *overrides], folder)
    if outcome.verdict == "fine" and rng.random() < 0.4:
        words = ["--episodes", rng.choice(["1", "3"]), "--report", rng.choice(registry.reports.names())]
        more = [f"{key.removeprefix('x.')}={text}" for key, text in known(rng, "x", registry.reports[words[-1]])]
        return run(["eval", *words, "--", run_dir, *more[: rng.randrange(3)]], folder, "2")
    if outcome.verdict == "fine" and rng.random() < 0.4:
        key, text = setting(rng, tree)
        more = ["trainer.epochs=2" if "epochs" in tree["trainer"] else "trainer.total_steps=512", f"{key}={text}"]
        return run(["resume", "--", run_dir, *more], folder, "2")
    return outcome


def short(name: str) -> dict[str, Any]:
    """A shipped config, made short."""
    tree = config.read_yaml(config.find(name))
    for key, value in SHORT.items():
        part, setting = key.split(".")
        if tree[part].get(setting) or setting in ("eval_every", "eval_episodes", "max_episode_steps"):
            tree[part][setting] = value
    return tree


def setting(rng: random.Random, tree: dict[str, Any]) -> tuple[str, str]:
    """A dotted key and a text for it: one that is there or one that its object knows; any value, or a plausible one."""
    if rng.random() < 0.1:
        key = rng.choice([*keys(tree), "device", "threads", "seed", "none.x", "env.x", "trainer.reports"])
        return key, rng.choice(NUMBERS if rng.random() < 0.5 else NONSENSE)
    kinds = {"env": registry.envs, "agent": registry.agents, "agent.network": registry.networks}
    part, registered = rng.choice(list(kinds.items()))
    if rng.random() < 0.2:
        return rng.choice([part, f"{part}.name"]), rng.choice(registered.names())
    if rng.random() < 0.2:
        return rng.choice(known(rng, "trainer", Trainer))
    name = at(tree, f"{part}.name")
    return rng.choice(known(rng, part, registered[name]) if name in registered.names() else [("seed", "3")])


def known(rng: random.Random, part: str, kind: Any) -> list[tuple[str, str]]:
    """Every setting of a registered object, each with a plausible value."""
    fields = kind.Settings.model_fields if hasattr(kind, "Settings") else {}
    return [(f"{part}.{key}", plausible(rng, field.annotation)) for key, field in fields.items()]


def plausible(rng: random.Random, kind: Any) -> str:
    """YAML that a setting of this type may well be."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return str(rng.choice(inner))
    if origin is Annotated:
        return plausible(rng, inner[0])
    if origin in (Union, UnionType):
        return plausible(rng, rng.choice(inner))
    if origin in (list, tuple):
        return "[" + ", ".join(plausible(rng, inner[0]) for _ in range(rng.randrange(4))) + "]"
    if isinstance(kind, type) and issubclass(kind, Choice):
        return rng.choice(kind.registry.names())
    return rng.choice(VALUES.get(kind, ["{}", "{a: 1}", "0"]))


def keys(tree: Any, prefix: str = "") -> list[str]:
    """The dotted keys of all mappings and values in a tree."""
    found = [prefix] if prefix else []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        found += keys(value, f"{prefix}.{key}" if prefix else key)
    return found


def at(tree: Any, key: str) -> Any:
    """The value of a dotted key; None if there is none."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets a dotted key, with mappings on the way."""
    *parents, last = key.split(".")
    for parent in parents:
        if not isinstance(tree.get(parent), dict):
            tree[parent] = {}
        tree = tree[parent]
    tree[last] = value


def misspell(rng: random.Random, tree: dict[str, Any]) -> None:
    """Deletes a key, or renames it."""
    key = rng.choice(keys(tree))
    *parents, last = key.split(".")
    inside = at(tree, ".".join(parents)) if parents else tree
    value, position = inside.pop(last), rng.randrange(len(last))
    new = rng.choice([None, last[:position] + last[position + 1 :], last.upper(), f"{last} ", "name", "[/y]"])
    if new is not None:
        inside[new] = value


def damaged(rng: random.Random, text: str) -> str:
    """A text with a line doubled or added, the end cut off, or a character changed."""
    lines, where = text.split("\n"), rng.randrange(len(text))
    line = rng.randrange(len(lines))
    return rng.choice([
        "\n".join([*lines[:line], lines[line], *lines[line:]]),
        "\n".join([*lines[:line], rng.choice(LINES), *lines[line:]]),
        text[:where],
        text[:where] + rng.choice(":,[]{}'\"#&*!|>%@`\n\t -\x00\udcff✓") + text[where + 1 :],
    ])  # fmt: skip

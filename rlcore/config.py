"""Configuration: YAML to validated, frozen settings, and settings to a trainer."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import Field, JsonValue, NonNegativeInt, ValidationError, ValidationInfo, field_validator, model_validator

from rlcore import distributed, legacy, registry
from rlcore.agent import Agent, AgentChoice
from rlcore.checkpoint import fitting
from rlcore.device import SMALL_NETWORK, choose_device, set_threads
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment, EnvironmentChoice
from rlcore.errors import InputError
from rlcore.files import CHECKPOINTS_FOLDER
from rlcore.files import CONFIG_FILE as CONFIG_FILE  # also from here, as what reads it
from rlcore.hooks import Hook
from rlcore.imports import import_module, search
from rlcore.memory import BoundedTensors
from rlcore.registry import did_you_mean
from rlcore.search_space import Range
from rlcore.seeding import TRAINING, derive_seed, restore_rng_state, rng_state, seed_everything
from rlcore.settings import ResolvedPath, Settings, flatten, mistakes
from rlcore.trainer import Trainer
from rlcore.warm_start import init_from
from rlcore.yaml_files import parse_yaml as parse_yaml  # also from here
from rlcore.yaml_files import read_yaml as read_yaml

SHIPPED = Path(__file__).parent / "configs"
COMMAND_LINE = "command line"
ASSUMED = "assumed"
ASSUMED_STEPS = 100_000
"""Length of a run of an agent without a config, unless one is given."""
HOME_FILE = ".home"
"""In a run's folder: the absolute path at which it was trained."""


class Expectation(Settings):
    """A figure that the config claims to reach."""

    at_least: float | None = None
    at_most: float | None = None
    source: str
    """Where the figure comes from."""

    @model_validator(mode="after")
    def _one_bound(self) -> "Expectation":
        if (self.at_least is None) == (self.at_most is None):
            raise InputError("needs either at_least or at_most")
        return self

    def met(self, value: float) -> bool:
        """Whether a value meets the bound; NaN does not."""
        return value >= self.at_least if self.at_least is not None else value <= self.at_most  # type: ignore[operator]

    def __str__(self) -> str:
        """``>= 500``."""
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


class Config(Settings):
    """The settings of a whole run."""

    env: EnvironmentChoice
    eval_env: dict[str, Any] | None = None
    """Another environment to evaluate in, with the same spaces; without a name, changes to ``env``: ``{wrappers: []}``,
    so that a reward which is clipped in training is reported as it is. null: ``env``."""
    agent: AgentChoice
    trainer: Trainer.Settings
    init_from: ResolvedPath | None = None
    """A run from whose agent this one begins, or one of its checkpoints, a ``.pt`` file: parameters and statistics of
    the same names and shapes are copied, whatever agent that is."""
    seed: NonNegativeInt = 1
    """Seed of every random generator."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:1."""
    threads: Literal["auto"] | Annotated[int, Field(gt=0, le=256)] = "auto"
    """Number of torch threads of this process; auto: 1 for a small network, else ``OMP_NUM_THREADS`` or one per core,
    at most 8. Runs side by side (``--jobs``) share them."""
    imports: list[str] = []  # noqa: RUF012 (pydantic copies it)
    """Modules and packages that register agents, environments, networks, reports, hooks or loggers: names, or paths to
    their files."""
    expect: dict[str, Expectation] = {}  # noqa: RUF012
    """Figure, named as in TensorBoard, to the bound that it meets for five seeds of five."""
    search: dict[str, Range | Annotated[list[JsonValue], Field(min_length=1)]] = Field(default={}, exclude=True)
    """Dotted key to where ``rlcore tune`` looks for its value: ``{low: 1e-5, high: 1e-2, log: true}``, or a list."""

    @field_validator("eval_env")
    @classmethod
    def _checked(cls, eval_env: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        if eval_env is not None and "env" in info.data:
            evaluation_env(info.data["env"], eval_env)
        return eval_env


def evaluation_env(env: EnvironmentChoice, eval_env: dict[str, Any]) -> EnvironmentChoice:
    """The environment to evaluate in: another one by name, or changes to the settings of ``env``.

    Raises:
        InputError: there is none of that name, or its settings are invalid.
    """
    try:
        return EnvironmentChoice.model_validate(eval_env if "name" in eval_env else {**env.model_dump(), **eval_env})
    except ValidationError as error:
        path, text = mistakes(error, EnvironmentChoice)[0]
        raise InputError(": ".join(filter(None, (".".join(path), text)))) from None


@dataclass(frozen=True)
class Loaded:
    """A config and where its settings came from."""

    name: str
    config: Config
    origin: dict[str, str]
    """Dotted key to the file, ``command line`` or ``assumed``; a key that is missing has its default."""
    notes: tuple[str, ...] = ()
    """What was assumed, in a line."""


def load(source: str | Path, overrides: Sequence[str] = (), trust: bool = False) -> Loaded:
    """Reads and checks a config.

    Args:
        source: path of a YAML file, or the name of a shipped config; or that of an agent, for gymnasium's environment
            ``env.id``, or another one (``env=cartpole``), which the overrides name.
        overrides: ``KEY=VALUE``, the key dotted, the value YAML.
        trust: import modules inside a run's folder, though it was trained elsewhere: it may be a stranger's.

    Raises:
        InputError: the config is invalid; one line says why.
    """
    by_agent = _file(source) is None and _is_name(source)
    if by_agent:
        path, trust = Path(COMMAND_LINE), True
        tree: dict[str, Any] = {"env": {"name": "gym"}, "agent": {"name": str(source)}, "trainer": {}}
        origin = {"env.name": ASSUMED, "agent.name": COMMAND_LINE}
    else:
        path = find(source)
        trust = trust or not is_run(path.parent) or is_home(path.parent)
        tree = read_yaml(path)
        if path.name == CONFIG_FILE:
            tree = legacy.upgraded_settings(tree)
        origin = dict.fromkeys(flatten(tree), path.name)
    for override in overrides:
        key = _override(tree, override)
        origin = {known: where for known, where in origin.items() if not f"{known}.".startswith(f"{key}.")}
        origin |= dict.fromkeys(flatten(_at(tree, key), key), COMMAND_LINE)
    if trust:  # otherwise a name could lead to code inside the run
        search(Path())
    if isinstance(tree.get("imports"), list):
        tree["imports"] = [import_module(str(module), path, trust) for module in tree["imports"]]
    if by_agent:
        origin |= _assume(tree, str(source))
    config = check(tree, path.name, origin)
    if not by_agent:
        name = path.stem if path.stem.strip(".") else "config"  # not "..", which a file named ...yaml has
        return Loaded(name, config, origin)
    env: Any = config.env
    name = re.sub(r"[^\w.-]+", "-", f"{source}-{getattr(env.settings, 'id', env.name)}")
    assumed = ", ".join(f"{key}={_at(tree, key)}" for key, where in origin.items() if where == ASSUMED)
    return Loaded(name, config, origin, (f"assumed: {assumed}",) if assumed else ())


def _assume(tree: dict[str, Any], agent: str) -> dict[str, str]:
    """Fills in what the command line leaves out for an agent, and returns what that is, as origins.

    Raises:
        InputError: there is no such agent, or no environment is named.
    """
    if agent not in registry.agents.names():
        find(agent)  # which names what there is
    env, trainer = tree.get("env"), tree.get("trainer")
    if env == "gym" or (isinstance(env, dict) and env.get("name") == "gym" and env.get("id") is None):
        raise InputError(
            f"{agent}: needs an environment: env.id=CartPole-v1 for one of gymnasium's, or env=NAME for another one; "
            "see rlcore list envs"
        )
    if not isinstance(trainer, dict) or any(trainer.get(key) is not None for key in ("total_steps", "epochs")):
        return {}
    trainer["total_steps"] = ASSUMED_STEPS
    return {"trainer.total_steps": ASSUMED}


def load_agent(path: Path, trust: bool = False) -> AgentChoice:
    """The agent of a run's config, whose environment need not be there: a module that only brought that may be missing.

    Args:
        path: of the config.
        trust: as in `load`.

    Raises:
        InputError: the agent, or its network, is not registered, or its settings are invalid.
    """
    tree, trust = read_yaml(path), trust or is_home(path.parent)
    missing: list[InputError] = []
    imports = tree.get("imports")
    for module in imports if isinstance(imports, list) else ():
        try:
            import_module(str(module), path, trust)
        except InputError as error:
            missing.append(error)
    try:
        return AgentChoice.model_validate(tree.get("agent"))
    except ValidationError as error:
        if missing:
            raise missing[0] from None
        keys, text = mistakes(error, AgentChoice)[0]
        raise InputError(f"{path.name}: {'.'.join(('agent', *keys))}: {text}") from None


def check(tree: dict[str, Any], file: str, origin: dict[str, str]) -> Config:
    """Converts a mapping to a `Config`.

    Raises:
        InputError: names the file, the key, what was given and what is allowed.
    """
    try:
        return Config(**tree)
    except ValidationError as error:
        found = mistakes(error, Config)
        found.sort(key=lambda mistake: not mistake[1].startswith("unknown key"))  # a misspelt key may cause another
        path, text = found[0]
        key = ".".join(path)
        whole = (".".join(path[: end + 1]) for end in range(len(path)))  # items of a list have no origin of their own
        where = COMMAND_LINE if any(origin.get(part) == COMMAND_LINE for part in (*whole, f"{key}.name")) else file
        more = f"; also wrong: {', '.join('.'.join(path) for path, _ in found[1:])}" if len(found) > 1 else ""
        raise InputError(f"{where}: {key}: {text}{more}") from None


def find(source: str | Path) -> Path:
    """The path of a config.

    Raises:
        InputError: there is no such config.
    """
    if (path := _file(source)) is not None:
        return path
    if not _is_name(source):
        raise InputError(f"there is no file {source}")
    agents = registry.agents.names()
    near = did_you_mean(str(source), [*shipped_names(), *agents])
    raise InputError(
        f"unknown config {str(source)!r}{near}: neither a file, nor an agent ({', '.join(agents)}), nor one of "
        f"{', '.join(shipped_names())}"
    )


def _file(source: str | Path) -> Path | None:
    """The path of a config, if it is there."""
    shipped = SHIPPED / f"{source}.yaml"
    if os.sep not in str(source) and shipped.is_file():
        return shipped
    return Path(source) if Path(source).is_file() else None


def _is_name(source: str | Path) -> bool:
    """Whether it does not look like a path."""
    return Path(source).suffix not in (".yaml", ".yml") and os.sep not in str(source)


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run."""
    return (folder / CONFIG_FILE).is_file() and (folder / CHECKPOINTS_FOLDER).is_dir()


def is_home(folder: Path) -> bool:
    """Whether a run's folder is where it was trained; one that was copied from elsewhere may be anyone's."""
    try:
        return (folder / HOME_FILE).read_text(encoding="utf-8") == str(folder.resolve())
    except (OSError, UnicodeDecodeError):
        return False


def shipped_names() -> list[str]:
    """The configs that come with rlcore."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def build(config: Config, spec: dict[str, Any] | None = None, hooks: Sequence[Hook] = ()) -> tuple[Trainer, list[str]]:
    """A trainer that writes nothing yet, ready to fit or to restore; seeds every generator.

    Args:
        config: the settings.
        spec: of the agent that it will restore, as its checkpoint holds it (`EnvSpec.plain`); see
            `Environment.for_agent`.
        hooks: beside those of the settings.

    Returns:
        The trainer, and one line for each choice made for it.

    Raises:
        InputError: environment, agent and device do not fit together.
    """
    device, reason = choose_device(config.device)
    seed_everything(derive_seed(config.seed, TRAINING))
    env = _training_env(config, device, spec)
    if config.device == "auto" and device.type != "cpu" and (size := num_parameters(config, env)) <= SMALL_NETWORK:
        device, reason = torch.device("cpu"), f"{size:,} parameters: a network this small is faster there"
        env.close()
        seed_everything(derive_seed(config.seed, TRAINING))
        env = _training_env(config, device, spec)
    agent = _make_agent(config, env)
    size = sum(param.numel() for param in agent.parameters())
    notes = [f"device: {device} ({reason})", set_threads(config.threads, size)]
    eval_env = (
        None if config.eval_env is None else _make_env(evaluation_env(config.env, config.eval_env), device, agent.spec)
    )
    if config.init_from is not None and spec is None:
        notes += init_from(agent, config.init_from)
    trainer = Trainer(
        agent, env, config.trainer, seed=config.seed, name=config.agent.name, eval_env=eval_env, hooks=hooks
    )
    return trainer, notes


def _make_env(choice: EnvironmentChoice, device: torch.device, spec: EnvSpec | None) -> Environment:
    """An environment, for the agent of a spec if one is given."""
    kind = registry.envs[choice.name]
    with BoundedTensors():
        for_agent = None if spec is None else getattr(kind, "for_agent", None)
        env: Environment = for_agent(choice.settings, device, spec) if for_agent else choice.build(device)
        return env


def _training_env(config: Config, device: torch.device, spec: dict[str, Any] | None) -> Environment:
    with fitting(f"the environment {config.env.name}"):
        known = None if spec is None else EnvSpec.from_plain(spec, device)
    if distributed.size() == 1:
        return _make_env(config.env, device, known)
    seed_everything(derive_seed(config.seed, TRAINING, *distributed.own_stream()))  # for what constructors draw
    env = _make_env(_own_share(config.env), device, known)
    seed_everything(derive_seed(config.seed, TRAINING))  # for the networks, which are alike
    return env


def _own_share(choice: EnvironmentChoice) -> EnvironmentChoice:
    """An environment with this process's part of its number."""
    given: Any = choice.settings
    num_envs = distributed.share(given.num_envs, "env.num_envs")
    return choice.model_copy(update={"settings": given.model_copy(update={"num_envs": num_envs})})


def _make_agent(config: Config, env: Environment) -> Agent:
    try:
        with BoundedTensors():
            return config.agent.build(env)
    except InputError as error:
        raise InputError(f"agent {config.agent.name} in environment {config.env.name}: {error}") from error


def num_parameters(config: Config, env: Environment) -> int:
    """The number of parameters of the agent; no generator notices.

    Where nobody's own code can be in it, they are counted on ``meta``, unless the agent looks at numbers, which there
    are none of: that takes no memory.
    """
    rng = rng_state()
    try:
        with torch.device("cpu" if config.imports else "meta"):
            agent = _make_agent(config, env)
    except Exception:  # if it is at fault, it fails again
        agent = _make_agent(config, env)
    finally:
        restore_rng_state(rng)
    return sum(param.numel() for param in agent.parameters())


def _override(tree: dict[str, Any], override: str) -> str:
    """Sets KEY=VALUE in the tree and returns the key."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise InputError(f"{COMMAND_LINE}: {override!r} is not KEY=VALUE, e.g. agent.learning_rate=3e-4")
    inner = tree
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, 1):
        if isinstance(inner.get(parent), str):  # a choice given by name alone
            inner[parent] = {"name": inner[parent]}
        inner = inner.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise InputError(f"{COMMAND_LINE}: {key}: {'.'.join(parents[:depth])} is {inner!r}, not a mapping")
    inner[last] = parse_yaml(text, COMMAND_LINE)
    return key


def _at(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def dump(config: Config) -> str:
    """The resolved settings as YAML that `load` reads."""
    tree = config.model_dump(mode="json")
    tree["expect"] = {
        key: {name: value for name, value in bound.items() if value is not None}
        for key, bound in tree["expect"].items()
    }
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110)

"""Configuration: YAML to validated, frozen settings, and settings to a trainer."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
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
from rlcore.hooks import Hook
from rlcore.imports import import_module, search
from rlcore.memory import BoundedTensors
from rlcore.registry import did_you_mean
from rlcore.search_space import Range
from rlcore.seeding import TRAINING, derive_seed, restore_rng_state, rng_state, seed_everything
from rlcore.settings import ResolvedPath, Settings, flatten, mistakes
from rlcore.trainer import CHECKPOINTS_FOLDER, Trainer
from rlcore.warm_start import init_from

SHIPPED = Path(__file__).parent / "configs"
COMMAND_LINE = "command line"
ASSUMED = "assumed"
ASSUMED_STEPS = 100_000
"""Length of a run of an agent without a config, unless one is given."""
CONFIG_FILE = "config.yaml"
HOME_FILE = ".home"
"""In a run's folder: the absolute path at which it was trained."""
MOST_CHARACTERS, MOST_NODES, DEEPEST, MOST_DIGITS = 2**18, 10_000, 50, 400
"""Bounds of a YAML file: on its characters, its values, their nesting, and the digits of a number."""


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


class _Loader(yaml.SafeLoader):
    """YAML with unique keys, scalars of 1.2: ``1e-3`` is a float, ``1e6`` and ``1_000`` integers, ``no`` a string.

    No tags but those of these scalars, lists and mappings.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    yaml_constructors = {  # noqa: RUF012
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("str", "seq", "map")
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is not a string", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is duplicated", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _scalar(tag: str, pattern: str, convert: Any) -> None:
    _Loader.add_implicit_resolver(tag, re.compile(pattern), None)
    _Loader.add_constructor(tag, lambda loader, node: convert(node.value))


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too long")
    number = Decimal(text)  # also reads 1e6
    if number != int(number):
        raise ValueError(f"{text} is not a whole number")
    return int(number)


_NUMBER = r"(0|[1-9][0-9_]*)"
_scalar("tag:yaml.org,2002:null", r"^(~|null|)$", lambda text: None)
_scalar("tag:yaml.org,2002:bool", r"^(true|false)$", lambda text: text == "true")
_scalar(
    "tag:yaml.org,2002:int",
    rf"^[-+]?{_NUMBER}([eE]\+?[0-9]{{1,2}})?$",
    lambda text: _whole(text.replace("_", "")),
)
_scalar(
    "tag:yaml.org,2002:float",
    rf"^[-+]?({_NUMBER}(\.[0-9_]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$",
    lambda text: float(text.replace("_", "").replace(".inf", "inf").replace(".nan", "nan")),
)


def parse_yaml(text: str, name: str) -> Any:
    """Parses YAML text into plain containers.

    Raises:
        InputError: names the line; or it is too large, or nested too deeply.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{name}: has {len(text):,} characters; a config has at most {MOST_CHARACTERS:,}")
    try:
        tree = yaml.load(text, _Loader)
        _check_size(tree)
        return tree
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{name}{line}: {error.problem}") from None
    except RecursionError:
        raise InputError(f"{name}: is nested too deeply") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:  # the last two: a wrong tag, such as !!int x
        raise InputError(f"{name}: {' '.join(str(error).split())}") from None


def _check_size(tree: Any) -> None:
    """Raises a ValueError if there is too much in a tree; aliases are followed, by which it may grow exponentially."""
    waiting, size = [(tree, 0)], 0
    while waiting:
        branch, depth = waiting.pop()
        size += 1
        if size > MOST_NODES or depth > DEEPEST:
            raise ValueError(f"more than {MOST_NODES:,} values, or nested more than {DEEPEST} deep")
        if isinstance(branch, (dict, list)):
            waiting += [(inner, depth + 1) for inner in (branch.values() if isinstance(branch, dict) else branch)]


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file that holds a mapping.

    Raises:
        InputError: it does not hold one, or cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    tree = parse_yaml(text, path.name)
    if not isinstance(tree, dict):
        raise InputError(f"{path.name}: must be a mapping of keys to values, got {type(tree).__name__}")
    return tree


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

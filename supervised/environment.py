"""SupervisedEnv: a data set as an environment, in which an example is an episode of one step."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator
from torch import Tensor

from rlcore.agent import Agent
from rlcore.checkpoint import restored, restored_number
from rlcore.environment import Environment, StepResult
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.observations import unknown_channels, usual_channels
from rlcore.seeding import restore_generator, seed_everything
from rlcore.settings import ResolvedPath, Seed
from rlcore.spaces import Channels, Image
from rlcore.supervised.actions import ACTIONS, Action, AskAction
from rlcore.supervised.datasets import Dataset, Split, channels_first, hold_out, load, only_classes

EVALUATION_BATCH = 1000
"""Examples that an evaluation shows at once, at most, unless the training batch is larger."""
EVALUATION_NUMBERS = 2**22
"""Numbers in these examples, at most."""
DIM = 32
"""Bytes below this are hardly pixels."""
MOST_CLASSES = 100
"""Classes of which a confusion matrix is shown."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""A standard deviation below this share of the mean is that of a constant."""


class SupervisedEnv(Environment):
    """Shows N examples, and rewards each answer at once; every step ends N episodes.

    The setting ``action`` defines what an answer is, and its reward:

    ========  ==========  ==================================================  ===================
    logits    [N, K]      log-likelihood of the class, nats                   carries a gradient
    label     [N] int64   1 if it is right, else 0                            none
    ask       [N] int64   as label, but -c if it is wrong; 0 for class K,     none
                          which asks a person
    log_odds  [N, *D]     log-likelihood of outcomes in [0, 1], nats          carries a gradient
    values    [N, *D]     minus the squared error                             carries a gradient
    ========  ==========  ==================================================  ===================

    The data live on the device and are indexed. They are shown in one permutation after another, so that each example
    is seen exactly once per epoch; a batch may straddle two epochs. The twin for evaluation shows the test split.

    Args:
        settings: see `Settings`.
        device: of the data.
        dataset: instead of ``settings.dataset``: `rlcore.supervised.datasets.from_arrays(inputs, targets)`.
        split: which examples are shown.
    """

    class Settings(Environment.Settings):
        """Settings of a data set."""

        num_envs: PositiveInt = 128
        """N, the batch size."""
        dataset: str | None = None
        """The name of a data set (``rlcore list datasets``), or the path of an ``.npz`` file that holds ``inputs`` and
        ``targets`` and, for a test split, ``test_inputs`` and ``test_targets``."""
        data_dir: ResolvedPath | None = None
        """Where the files of the data set are; null looks in ``$RLCORE_DATA`` and the user's cache."""
        data_seed: Seed = 1
        """Seed of generated data and of splits drawn at random."""
        action: Literal["logits", "label", "ask", "log_odds", "values"] = "logits"
        """What an answer is, and its reward."""
        scaling: Literal["unit", "raw", "standard"] = "unit"
        """``unit``: bytes are divided by 255, unless they are only 0 and 1; other numbers unchanged; ``raw``: all
        unchanged; ``standard``: to mean 0 and standard deviation 1 over the training split, per feature or channel,
        computed before numbers are rounded to float32."""
        channels: Channels | None = None
        """Where the channels of images are, [n, C, H, W] or [n, H, W, C]; agents see [C, H, W]. null: at the end whose
        size is 1, 3 or 4, if just one is; else neither a network that reads images nor ``standard`` takes them."""
        test_fraction: float = Field(default=0.2, ge=0, lt=1)
        """The share of examples, drawn by class, that a data set without a test split holds out for evaluation. 0:
        train and evaluate on all of them."""
        validation_fraction: float = Field(default=0, ge=0, lt=1)
        """The share of the training examples, drawn by class, that is held out; the report ``uncertainty`` fits a
        temperature to it."""
        classes: list[str] | None = None
        """Train and test on these classes only; the other test inputs are out-of-distribution inputs in the report
        ``uncertainty``."""
        wrong: NonNegativeFloat = 1.0
        """c, the cost of a wrong answer if ``action`` is ``ask``."""
        wrong_warmup: NonNegativeInt = 0
        """Training examples over which that cost rises from 0 to c: at full cost, an agent that knows nothing yet
        learns only to ask."""
        shuffle: bool = True
        """Show the examples in random order, instead of that of the data set."""

        @field_validator("dataset")
        @classmethod
        def _absolute(cls, dataset: str | None) -> str | None:
            """Makes a path absolute, so that a run resumed from another folder finds the file."""
            return str(Path(dataset).resolve()) if dataset and dataset.endswith(".npz") else dataset

    settings: Settings
    select_best = False
    num_examples: int
    names_classes = True
    """Whether an answer names a class, if there are classes."""

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        dataset: Dataset | None = None,
        split: Literal["train", "test"] = "train",
    ):
        self.settings = settings
        if dataset is not None and settings.dataset is not None:
            raise InputError("env.dataset: given twice, as a data set and by name; leave one out")
        if dataset is None:
            if settings.dataset is None:
                raise InputError("env.dataset: missing; give a name (rlcore list datasets) or the path of an .npz file")
            dataset = load(str(settings.dataset), settings.data_dir, settings.data_seed)
        channels = _channels(tuple(dataset.train.inputs.shape[1:]), settings.channels)
        self.is_image = channels is not None
        """Whether examples are known to be images [C, H, W]."""
        if channels == "last":
            dataset = channels_first(dataset)
        if self.names_classes and settings.action == "values" and dataset.counted and settings.classes is None:
            dataset = replace(dataset, classes=None, counted=False)  # integers are numbers where answers are
        self.dataset = _prepared(dataset, settings)
        self._shift, self._scale = self._scaling(torch.device(device))
        self.action = self._make_action(torch.device(device))
        shown = self.dataset.train if split == "train" else self.dataset.test
        assert shown is not None
        num_examples = len(shown.targets)
        if settings.num_envs > num_examples:
            raise InputError(
                f"env.num_envs: a batch of {settings.num_envs:,} is larger than the {num_examples:,} examples of the "
                f"{split} split; at most {num_examples:,}"
            )
        space: Box[Any] = Box(-np.inf, np.inf, tuple(shown.inputs.shape[1:]), np.float32)
        if self.is_image:
            space = Image(space, "first")
        super().__init__(settings.num_envs, space, self.action.space, device)
        self.num_examples = num_examples
        self.criterion = self.action.unit
        if self.dataset.classes is not None and settings.action != "ask":
            self.criterion = "accuracy"
        inputs = shown.inputs.to(self.device)
        self._inputs = inputs if inputs.dtype == torch.uint8 else self.scaled(inputs)
        self.targets = shown.targets.to(self.device)
        """Of the examples that are shown, [n] int64 or float32 [n, ...]."""
        self._encoded = self._encode()
        self._generator = torch.Generator(self.device)
        self._terminated = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._truncated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._action_dtype = torch.int64 if isinstance(self.action.space, Discrete) else torch.float32
        self._action_shape = torch.Size((self.num_envs, *(self.action.space.shape or ())))
        self._num_answered = 0
        self._target: Tensor
        self._begin_epoch()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Shows the next N examples; with a seed, the first N of a new permutation."""
        if seed is not None:
            self._generator.manual_seed(seed)
            self._begin_epoch()
        return self._show(), {}

    def step(self, actions: Tensor) -> StepResult:
        """Rewards the answers and shows the next N examples.

        Args:
            actions: as the setting ``action`` defines them.

        Raises:
            InputError: they have another shape or dtype.
        """
        if actions.shape != self._action_shape or actions.dtype != self._action_dtype:
            raise InputError(
                f"an action ({self.settings.action}) must be {self._action_dtype} of shape "
                f"{tuple(self._action_shape)}, got {actions.dtype} of shape {tuple(actions.shape)}"
            )
        if isinstance(self.action, AskAction) and self.settings.wrong_warmup:
            self.action.wrong = self.settings.wrong * min(1.0, self._num_answered / self.settings.wrong_warmup)
            self._num_answered += self.num_envs
        reward = self.action.reward(actions, self._target)
        return self._show(), reward, self._terminated, self._truncated, {}

    def evaluation(self, num_envs: int) -> "SupervisedEnv":
        """A twin that shows the test split in its own order, in batches whose size does not matter."""
        return type(self)(self.twin_settings(), self.device, self.dataset, "test")

    def twin_settings(self) -> Any:
        """The settings of the twin for evaluation, which is given the data set as prepared here."""
        assert self.dataset.test is not None
        batch = min(len(self.dataset.test.targets), self.evaluation_batch)
        channels = "first" if self.is_image else None
        prepared = {"dataset": None, "channels": channels, "classes": None, "validation_fraction": 0, "wrong_warmup": 0}
        return self.settings.model_copy(update={"num_envs": batch, "shuffle": False, **prepared})

    @property
    def evaluation_batch(self) -> int:
        """How many examples are evaluated at once, which is what takes memory: at least a training batch."""
        numbers = max(1, math.prod(self.single_observation_space.shape or ()))
        return max(self.num_envs, min(EVALUATION_BATCH, EVALUATION_NUMBERS // numbers))

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Shows every example exactly once, whatever ``num_episodes``; the last batch may be short.

        Returns:
            The mean of the reward by its name (``log_likelihood`` in nats, or ``squared_error``); for classes also
            ``accuracy`` and ``recall_<class>``, as text the confusion matrix of up to `MOST_CLASSES`, and the columns
            ``target``, ``answer`` and ``reward`` of each example. With the action ``ask``, ``asked`` is the share of
            answers K; accuracy, recall and confusion matrix are of the other answers.
        """
        classes, rewards, answers = self.dataset.classes, [], []
        with evaluating(agent):
            seed_everything(seed)
            for rows in torch.arange(self.num_examples, device=self.device).split(self.num_envs):
                action = agent.predict(self.inputs(rows)).action
                rewards.append(self.action.reward(action, self._encoded[rows]))
                if classes is not None:
                    answers.append(self.action.label(action))
        reward = torch.cat(rewards)
        scalars = self.action.scalars(reward)
        columns = {"reward": reward.tolist()}
        if classes is None:
            return Report(scalars, columns=columns)
        answer, target, K = torch.cat(answers), self.targets, len(classes)
        answered, right = answer < K, answer == target
        recall = torch.bincount(target[right], minlength=K).double() / torch.bincount(target[answered], minlength=K)
        if self.settings.action == "ask":
            scalars["asked"] = 1 - answered.double().mean().item()
        scalars["accuracy"] = right[answered].double().mean().item()
        scalars |= {f"recall_{name}": value for name, value in zip(classes, recall.tolist(), strict=True)}
        columns |= {"target": target.tolist(), "answer": answer.tolist()}
        text = f"the confusion matrix of {K:,} classes is not shown; at most {MOST_CLASSES}"
        if K <= MOST_CLASSES:
            text = _matrix_text(confusion_matrix(target[answered], answer[answered], K), classes)
        return Report(scalars, text, columns=columns)

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Examples as an agent sees them, float32 [B, *shape]."""
        inputs = self._inputs[rows]
        return self.scaled(inputs) if inputs.dtype == torch.uint8 else inputs

    def scaled(self, inputs: Tensor) -> Tensor:
        """Scales inputs as the data set has them, [B, *shape], to what an agent sees, float32."""
        inputs = inputs.to(torch.float32 if self._shift is None else self._shift.dtype, copy=True)
        if self._shift is not None:
            inputs -= self._shift
        return (inputs if self._scale is None else inputs.div_(self._scale)).float()

    def checkpoint(self) -> dict[str, Any]:
        """The current targets, and the position in the current permutation."""
        return {
            "target": self._target,
            "cursor": self._cursor,
            "generator": self._epoch_began_with,
            "num_answered": self._num_answered,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        self._show()  # for a target to compare with
        is_class = not self._target.is_floating_point()
        low, high = map(int, self._encoded.aminmax()) if is_class else (-math.inf, math.inf)
        self._target = restored(saved["target"], self._target, "env.target", low=low, high=high)
        restore_generator(self._generator, saved["generator"])
        self._begin_epoch()
        self._cursor = restored_number(saved["cursor"], "env.cursor", high=self.num_examples)
        self._num_answered = restored_number(saved["num_answered"], "env.num_answered")

    def _make_action(self, device: torch.device) -> Action:
        """What an answer is, as set by ``action``."""
        if self.settings.action == "ask":
            return AskAction(self.dataset, device, self.settings.wrong)
        return ACTIONS[self.settings.action](self.dataset, device)

    def _encode(self) -> Tensor:
        """The encoded targets of every example shown, [n, ...]."""
        return self.action.encode(self.targets)

    def _wanted(self, rows: Tensor, inputs: Tensor) -> Tensor:
        """The encoded targets of some examples, which are shown as ``inputs``."""
        return self._encoded[rows]

    def _show(self) -> Tensor:
        rows = self._next_rows()
        inputs = self.inputs(rows)
        self._target = self._wanted(rows, inputs)
        return inputs

    def _next_rows(self) -> Tensor:
        start, self._cursor = self._cursor, self._cursor + self.num_envs
        if self._cursor <= self.num_examples:
            return self._order[start : self._cursor]
        rest = self._order[start:]
        self._begin_epoch()
        self._cursor = self.num_envs - len(rest)
        return torch.cat([rest, self._order[: self._cursor]])

    def _begin_epoch(self) -> None:
        self._epoch_began_with = self._generator.get_state()
        self._cursor = 0
        if self.settings.shuffle:
            self._order = torch.randperm(self.num_examples, generator=self._generator, device=self.device)
        else:
            self._order = torch.arange(self.num_examples, device=self.device)

    def _scaling(self, device: torch.device) -> tuple[Tensor | None, Tensor | float | None]:
        """What is subtracted from the inputs, and what they are then divided by; from the training split."""
        inputs = self.dataset.train.inputs
        is_bytes = inputs.dtype == torch.uint8
        if self.settings.scaling == "standard":
            if inputs.ndim == 4 and not self.is_image:
                raise InputError(f"env.scaling: standard is per channel; {unknown_channels(tuple(inputs.shape[1:]))}")
            examples = (0, *range(2, inputs.ndim))
            std, mean = torch.std_mean(inputs.double(), examples, correction=0, keepdim=True)
            std = torch.where(std > ROUNDING * mean.abs(), std, 1.0)
            dtype = torch.float32 if is_bytes else torch.float64  # float32 has all bytes, and is scaled at every step
            return mean[0].to(device, dtype), std[0].to(device, dtype)
        if not is_bytes or self.settings.scaling != "unit" or (most := int(inputs.max())) <= 1:
            return None, None
        if most < DIM:
            self.remarks = [
                f"the largest byte of the inputs is {most}, so that divided by 255 they are at most {most / 255:.2g}; "
                "env.scaling=standard or env.scaling=raw keeps them apart"
            ]
        return None, 255.0


def confusion_matrix(target: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    """How often class i was answered with class j, float64 [K, K].

    Args:
        target: [n] int64, i.
        answer: [n] int64, j.
        num_classes: K.
    """
    counts = torch.bincount(target * num_classes + answer, minlength=num_classes**2)
    return counts.view(num_classes, num_classes).double()


def _channels(shape: tuple[int, ...], given: Channels | None) -> Channels | None:
    """Where the channels of examples are, as given or as usual; None if they are not images, or that is not known."""
    if len(shape) == 3:
        return given or usual_channels(shape)
    if given is not None:
        raise InputError(f"env.channels: is for images of three dimensions, these examples have shape {shape}")
    return None


def _matrix_text(matrix: Tensor, classes: tuple[str, ...]) -> str:
    width = max(8, *(len(name) + 2 for name in classes))
    rows = [["truth", *classes, "recall"]]
    for name, row in zip(classes, matrix, strict=True):
        index = len(rows) - 1
        rows.append([name, *(f"{int(count)}" for count in row.tolist()), f"{row[index] / row.sum():.1%}"])
    return "\n".join("".join(cell.rjust(width) for cell in row) for row in rows)


def _prepared(dataset: Dataset, settings: SupervisedEnv.Settings) -> Dataset:
    """Selects the classes asked for, and holds out examples for evaluation and validation."""
    if settings.classes is not None:
        dataset = only_classes(dataset, settings.classes)
    if dataset.test is None and settings.test_fraction == 0:
        dataset = replace(dataset, test=dataset.train)
    elif dataset.test is None:
        train, test = _held_out("test_fraction", dataset, settings.test_fraction, settings.data_seed)
        dataset = replace(dataset, train=train, test=test)
    if settings.validation_fraction:
        train, validation = _held_out("validation_fraction", dataset, settings.validation_fraction, settings.data_seed)
        dataset = replace(dataset, train=train, validation=validation)
    return dataset


def _held_out(setting: str, dataset: Dataset, share: float, seed: int) -> tuple[Split, Split]:
    rest, held = hold_out(dataset.train, share, dataset.classes is not None, seed)
    if not len(held.targets):
        raise InputError(f"env.{setting}: {share:g} of {len(rest.targets)} examples is none; take a larger share, or 0")
    return rest, held

"""SupervisedEnv: a data set as an environment, in which an example is an episode of one step."""

import math
from collections.abc import Iterator
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Discrete
from numpy.typing import NDArray
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)
from torch import Tensor
from typing_extensions import Self

from rlcore.agent import Agent
from rlcore.checkpoint import restored, restored_number
from rlcore.distributed import rank, size
from rlcore.env_spec import EnvSpec
from rlcore.environment import Environment, StepResult
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.observations import ScaledInputs, unknown_channels, usual_channels
from rlcore.seeding import derive_seed, restore_generator, seed_everything
from rlcore.settings import ResolvedPath, Seed
from rlcore.spaces import Channels, Column, Inputs
from rlcore.supervised import tables
from rlcore.supervised.actions import ACTIONS, ERRORS, Action
from rlcore.supervised.augmentations import AugmentationChoice
from rlcore.supervised.datasets import (
    Dataset,
    FileOptions,
    Split,
    classes_as,
    fold,
    hold_out,
    is_path,
    lacking,
    load,
    map_inputs,
    only_classes,
)
from rlcore.supervised.images import Mode
from rlcore.supervised.loading import (
    Kept,
    Loaded,
    Order,
    Source,
    Stream,
    gathered,
    in_order,
    kept,
    pieces,
    placed,
)
from rlcore.supervised.metrics import Metric, MetricChoice
from rlcore.trees import describe

NOISE = 1
"""Purpose of the seed by which augmentations and pixels are drawn; the seed itself draws the order of the examples."""
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

    ========  ===========  ===============================================  ==================
    logits    [N, K]       log-likelihood of the class, nats                carries a gradient
    label     [N] int64    1 if it is right, else 0                         none
    ask       [N] int64    as label, but -c if it is wrong; 0 for class K,  none
                           which asks a person
    log_odds  [N, *D]      log-likelihood of outcomes in [0, 1], nats       carries a gradient
    values    [N, *D]      minus the squared error                          carries a gradient
    normal    [N, 2, *D]   log-likelihood under normals of these means and  carries a gradient
                           log-variances, nats
    ========  ===========  ===============================================  ==================

    Inputs are shown as the data set has them, bytes or floats. How they are scaled is fitted to the training split and
    told by the observation space, `rlcore.spaces.Inputs`: agents scale them, and keep the statistics.

    The data live on the device and are indexed; what does not fit is fetched by rows (`rlcore.supervised.loading`).
    They are shown in one permutation after another, so that each example
    is seen exactly once per epoch; a batch may straddle two epochs. The twin for evaluation shows the validation split,
    and that for the test at the end the test split; without a validation split, the former shows the test split.

    Args:
        settings: see `Settings`.
        device: of the data.
        dataset: instead of ``settings.dataset``: `rlcore.supervised.datasets.from_arrays(inputs, targets)`.
        split: which examples are shown.
        spec: of an agent that exists already, perhaps trained on other data; its scaling and its classes hold here.
    """

    class Settings(Environment.Settings):
        """Settings of a data set."""

        num_envs: PositiveInt = 128
        """N, the batch size."""
        dataset: str | None = None
        """The name of a data set (``rlcore list datasets``); or a path: of an ``.npz`` file that holds ``inputs`` and
        ``targets`` and, for a test split, ``test_inputs`` and ``test_targets``; of a table, ``.csv`` or ``.parquet``;
        of a folder, ending in ``/``, of such arrays as ``.npy`` files, or of images, ``<class>/*.png`` or
        ``train/<class>/*.png`` and ``test/<class>/*.png``, perhaps ``validation/<class>/*.png``."""
        target: str | list[str] | None = None
        """Of a table: the column to predict; or several, of numbers."""
        features: list[str] | None = None
        """Of a table: the columns to predict it from; null: all others."""
        ignore: list[str] = []  # noqa: RUF012 (pydantic copies it)
        """Of a table: columns that are left out, if ``features`` is null."""
        missing: tables.Missing = "refuse"
        """Of a table: what missing values count as, by the training split. ``mean`` or ``median`` of numbers, and of
        texts a category of its own; ``most_common`` of both; ``refuse``: nothing."""
        test_dataset: str | None = None
        """Of a table: another one, with the test split."""
        data_dir: ResolvedPath | None = None
        """Where the files of the data set are; null looks in ``$RLCORE_DATA`` and the user's cache."""
        in_memory: bool | None = None
        """Whether the inputs of a file or folder are held in memory, on the device. null: images are, decoded, if they
        take at most half of the memory; arrays of 64 MiB or more that are stored uncompressed are mapped from their
        file, and go to a GPU if they take at most half of what is free there."""
        workers: Annotated[int, Field(ge=0, le=256)] = 2
        """Processes that decode images: those that are not in memory, ahead of time; 0: the main process does."""
        image_size: tuple[PositiveInt, PositiveInt] | None = None
        """Height and width to which images of a folder are resized; null: all must have the same."""
        image_mode: Mode | None = None
        """Whether images of a folder have one channel or three; null: as the first of them."""
        data_seed: Seed = 1
        """Seed of generated data and of splits drawn at random."""
        action: Literal["logits", "label", "ask", "log_odds", "values", "normal"] = "logits"
        """What an answer is, and its reward."""
        scaling: Literal["unit", "raw", "standard"] = "unit"
        """What agents do to the inputs, by statistics of the training split that are saved with them. ``unit``: bytes
        are divided by 255, unless they are only 0 and 1; other numbers unchanged; ``raw``: all unchanged; ``standard``:
        to mean 0 and standard deviation 1, per feature or channel, computed before numbers are rounded to float32."""
        target_scaling: Literal["raw", "standard"] = "raw"
        """What networks say of targets if ``action`` is values or normal; answers and rewards are in the targets' own
        units. ``standard``: what is brought to mean 0 and standard deviation 1, per number, by the training targets."""
        channels: Channels | None = None
        """Where the channels of images are, [n, C, H, W] or [n, H, W, C]; networks see the former. null: at the end
        whose size is 1, 3 or 4, if just one is; else neither a network that reads images nor ``standard`` takes
        them."""
        test_fraction: float = Field(default=0.2, ge=0, lt=1)
        """The share of examples, drawn by class, that a data set without a test split holds out for evaluation. 0:
        train and evaluate on all of them."""
        validation_fraction: float = Field(default=0, ge=0, lt=1)
        """The share of the training examples, drawn by class, that is held out for evaluation during training; the test
        split is then shown at the end alone. The report ``uncertainty`` fits a temperature to it, or of numbers a
        factor of their standard deviations."""
        folds: int | None = Field(default=None, ge=2)
        """K, for cross-validation: hold out one of K equal parts of the training examples, drawn by class, instead of
        ``validation_fraction``; ``rlcore train --folds K`` trains once for each."""
        fold: NonNegativeInt = 0
        """Which of the parts is held out, 0 to K - 1."""
        evaluation_batch: PositiveInt | None = None
        """Examples evaluated at once, which take memory; null: 1,000 or less if they are large, at least a batch."""
        classes: list[str] | None = None
        """Train and test on these classes only; the other test inputs are out-of-distribution inputs in the report
        ``uncertainty``."""
        wrong: NonNegativeFloat = 1.0
        """c, the cost of a wrong answer if ``action`` is ``ask``."""
        wrong_warmup: NonNegativeInt = 0
        """Training examples over which that cost rises from 0 to c: at full cost, an agent that knows nothing yet
        learns only to ask."""
        augment: list[AugmentationChoice] = []  # noqa: RUF012 (pydantic copies it)
        """What is done to the examples of training, in this order (``rlcore list augmentations``)."""
        class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
        """How much examples count in what is minimised, by class, those not named 1; ``balanced``: in proportion to 1 /
        their number. They are scaled to a mean of 1 over the training examples. Rewards are not weighted."""
        metrics: list[MetricChoice] = []  # noqa: RUF012
        """Further figures of an evaluation (``rlcore list metrics``)."""
        shuffle: bool = True
        """Show the examples in random order, instead of that of the data set."""

        @field_validator("dataset", "test_dataset")
        @classmethod
        def _absolute(cls, dataset: str | None) -> str | None:
            """Makes a path absolute, so that a run resumed from another folder finds the file."""
            named = dataset is not None and (is_path(dataset) or dataset.endswith(tables.SUFFIXES))
            return str(Path(dataset).resolve()) if dataset and named else dataset

        @model_validator(mode="after")
        def _check_folds(self) -> "SupervisedEnv.Settings":
            if self.folds and self.validation_fraction:
                raise InputError("folds: instead of validation_fraction, which must be 0")
            if self.fold and self.fold >= (self.folds or 1):
                raise InputError(f"fold: must be below folds, {describe(self.folds)}; got {self.fold}")
            return self

        @model_validator(mode="after")
        def _check_targets(self) -> "SupervisedEnv.Settings":
            if self.target_scaling != "raw" and self.action not in ("values", "normal"):
                raise InputError(f"target_scaling: is for numbers (values, normal), the action is {self.action}")
            return self

    settings: Settings
    num_examples: int
    names_classes = True
    """Whether an answer names a class, if there are classes."""
    kept_by_agents = "scaling", "channels", "features", "ignore", "missing", "target_scaling"

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        dataset: Dataset | None = None,
        split: Literal["train", "test"] = "train",
        spec: EnvSpec | None = None,
    ):
        self.settings = settings
        if dataset is not None and settings.dataset is not None:
            raise InputError("env.dataset: given twice, as a data set and by name; leave one out")
        fitted, known = (None, None) if spec is None else (spec.single_observation_space, spec.classes)
        columns = fitted.columns if isinstance(fitted, Inputs) else None
        table = None
        if dataset is None:
            table, dataset = self._load(columns, known)
        counts = self.names_classes and settings.action in ("values", "normal") and dataset.counted
        if counts and settings.classes is None and known is None:
            dataset = replace(dataset, classes=None, counted=False)  # integers are numbers where answers are
        self.dataset = _prepared(dataset, settings, known)
        if table is not None:
            columns = columns or table.fit(gathered(self.dataset.train.inputs).squeeze(1), settings.missing)
            rows = tables.Rows(table.values, columns)
            self.dataset = map_inputs(self.dataset, lambda x: torch.from_numpy(rows[gathered(x)[:, 0].numpy()]))
            self.remarks = tuple(rows.remarks)
        space = _for_data(fitted, self.dataset) if isinstance(fitted, Inputs) else self._fit(columns)
        self.channels = space.channels
        """Where the channels of images are; None: they are no images, or it is not known."""
        self.dataset = _as_shown(self.dataset, space)
        self._scaling = ScaledInputs(space).to(device)
        self.action = self._make_action(torch.device(device))
        shown = self.dataset.train if split == "train" else self.dataset.test
        assert shown is not None
        num_examples = len(shown.targets)
        super().__init__(settings.num_envs, space, self.action.space, device)
        self.num_examples, self.split = num_examples, split
        self._batch = self.num_envs * size()  # of all processes
        self._part = slice(rank() * self.num_envs, (rank() + 1) * self.num_envs)
        self.float64 = space.dtype == np.float64
        if spec is None:
            self._check_batch()
            self.remarks = (*self.remarks, *lacking(self.dataset))
        self._metrics()  # those that there cannot be are better told now than at the first evaluation
        self._class_weights = self._weights_of_classes()
        self.criterion = self.action.criterion(self.dataset)
        inputs = placed(shown.inputs, self.device, settings.in_memory)
        self._stream = Stream(inputs, self.device) if isinstance(inputs, Source) else None
        self._inputs = None if isinstance(inputs, Source) else _channels_first(inputs, self.channels)
        self._targets = shown.targets if isinstance(shown.targets, Source) else shown.targets.to(self.device)
        self._augmentations = [choice.make() for choice in settings.augment]
        self._mixes_targets = any(augmentation.mixes_targets for augmentation in self._augmentations)
        self._encoded = None if isinstance(self._targets, Source) else self._as_rewarded(self._encode(self._targets))
        self._check_augmentations()
        where = self.device if self._stream is None else torch.device("cpu")
        self._order = Order(num_examples, self._batch, self._part, settings.shuffle, where)
        self._noise = torch.Generator(self.device).manual_seed(2 * settings.data_seed + (split == "test"))
        self._terminated = torch.ones(self.num_envs, dtype=torch.bool, device=self.device)
        self._truncated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._action_dtype = torch.int64 if isinstance(self.action.space, Discrete) else torch.float32
        self._action_shape = torch.Size((self.num_envs, *(self.action.space.shape or ())))
        self._num_answered = 0
        self._target: Tensor

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Shows the next N examples; with a seed, the first N of a new permutation."""
        self._check_batch()
        if seed is not None:
            self._order.generator.manual_seed(seed)
            self._order.begin_epoch()
            self._noise.manual_seed(derive_seed(seed, NOISE) + rank())  # as each process has other examples
        self._look_ahead()
        return self._show(), {}

    def step(self, actions: Tensor) -> StepResult:
        """Rewards the answers and shows the next N examples.

        ``info["example"]`` has the encoded ``target`` of each one answered, and with ``class_weights`` its ``weight``.

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
        self.action.on_step(self._num_answered)
        self._num_answered += self._batch
        reward, example = self.action.reward(actions, self._target), {"target": self._target}
        if self._class_weights is not None:
            example["weight"] = self._weights(self._target, self._class_weights)
        return self._show(), reward, self._terminated, self._truncated, {"example": example}

    def evaluation(self, num_envs: int) -> "SupervisedEnv":
        """A twin that shows the validation split, or else the test split, in its own order.

        The size of its batches does not matter.
        """
        return self._twin(self._for_evaluation())

    def test(self, num_envs: int) -> "SupervisedEnv | None":
        """A twin that shows the test split, if the one for evaluation does not."""
        return self._twin(self.dataset) if self.select_best and self.dataset.test is not None else None

    @classmethod
    def for_agent(cls, settings: Any, device: torch.device | str, spec: EnvSpec) -> "SupervisedEnv":
        """See `Environment.for_agent`: with the scaling and the classes of the agent.

        A subclass whose constructor does not take a spec is made as any other.
        """
        return cls(settings, device, spec=spec) if "spec" in signature(cls).parameters else cls(settings, device)

    @property
    def select_best(self) -> bool:  # type: ignore[override]
        """Whether there is a validation split to choose the best checkpoint by."""
        return self.dataset.validation is not None

    @property
    def first(self) -> int:
        """0: all processes draw the same order, and each shows its part of a batch."""
        return 0

    @property
    def classes(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """The names of the classes, if answers name one."""
        return self.dataset.classes if self.names_classes else None

    def _for_evaluation(self) -> Dataset:
        """The data set, such that its test split is what is evaluated during training."""
        held = self.dataset.validation
        return self.dataset if held is None else replace(self.dataset, test=held, validation=None)

    def _twin(self, dataset: Dataset) -> Self:
        """A twin that shows the test split of a data set, prepared here."""
        return type(self)(self.twin_settings(dataset), self.device, dataset, "test", EnvSpec.of(self))

    def twin_settings(self, dataset: Dataset) -> Any:
        """The settings of a twin that shows the test split of a data set, prepared here."""
        assert dataset.test is not None
        batch = min(len(dataset.test.targets), self.evaluation_batch)
        prepared: dict[str, Any] = {
            "dataset": None,
            "classes": None,
            "validation_fraction": 0,
            "folds": None,
            "fold": 0,
            "augment": [],
        }
        return self.settings.model_copy(update={"num_envs": batch, "shuffle": False, "wrong_warmup": 0, **prepared})

    @property
    def evaluation_batch(self) -> int:
        """How many examples are evaluated at once, which is what takes memory."""
        numbers = max(1, math.prod(self.single_observation_space.shape or ()))
        usual = max(self.num_envs, min(EVALUATION_BATCH, EVALUATION_NUMBERS // numbers))
        return self.settings.evaluation_batch or usual

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Shows every example exactly once, whatever ``num_episodes``; the last batch may be short.

        Returns:
            The mean of the reward by its name (``log_likelihood`` in nats, or ``squared_error``), and the figures of
            the setting ``metrics``; for numbers also the `prediction_errors`; for classes also
            ``accuracy`` and ``recall_<class>``, as text the confusion matrix of up to `MOST_CLASSES`, and the columns
            ``target``, ``answer`` and ``reward`` of each example. With the action ``ask``, ``asked`` is the share of
            answers K; accuracy, recall and confusion matrix are of the other answers.
        """
        classes, metrics = self.dataset.classes, self._metrics()
        num_classes = None if classes is None else len(classes)
        rewards, answers, wanted = [], [], []
        with evaluating(agent):
            seed_everything(seed)
            for rows in self.in_order(self.num_envs):
                action, encoded = agent.predict(self.inputs(rows)).action, self._encoded_of(rows)
                rewards.append(self.action.reward(action, encoded))
                stated = self.action.stated(action, num_classes)
                wanted.append(encoded.flatten(1) if classes is None else self._targets_of(rows))
                answers.append(stated if classes is None else self.action.label(action))
                for metric in metrics.values():
                    metric.update(stated, wanted[-1])
        reward = torch.cat(rewards)
        columns = {"reward": reward.tolist()}
        scalars, errors = self.action.scalars(reward), ERRORS
        for name, metric in metrics.items():
            measured = {f"{name}{rest}": value for rest, value in metric.compute().items()}
            scalars |= measured
            errors += tuple(measured) if metric.is_error else ()
        if classes is None:
            measured = prediction_errors(torch.cat(answers), torch.cat(wanted))
            return Report({**scalars, **measured}, columns=columns, errors=(*errors, *measured))
        answer, target, K = torch.cat(answers), torch.cat(wanted), len(classes)
        answered, right = answer < K, answer == target
        recall = torch.bincount(target[right], minlength=K).double() / torch.bincount(target[answered], minlength=K)
        scalars |= self.action.answer_scalars(answer)
        scalars["accuracy"] = right[answered].double().mean().item()
        scalars |= {f"recall_{name}": value for name, value in zip(classes, recall.tolist(), strict=True)}
        columns |= {"target": target.tolist(), "answer": answer.tolist()}
        text = f"the confusion matrix of {K:,} classes is not shown; at most {MOST_CLASSES}"
        if K <= MOST_CLASSES:
            text = _matrix_text(confusion_matrix(target[answered], answer[answered], K), classes)
        return Report(scalars, text, columns=columns, errors=errors)

    def _weights_of_classes(self) -> Tensor | None:
        """By class, [K] float32; None if all count alike."""
        given, classes = self.settings.class_weights, self.dataset.classes
        if given is None:
            return None
        if classes is None:
            raise InputError("env.class_weights: needs classes, the targets are numbers")
        num = torch.bincount(gathered(self.dataset.train.targets), minlength=len(classes)).double()
        if given == "balanced":
            weights = 1 / num.clamp_min(1)
        else:
            if unknown := [name for name in given if name not in classes]:
                raise InputError(f"env.class_weights: there is no class {unknown[0]!r}; there are {', '.join(classes)}")
            weights = torch.tensor([given.get(name, 1.0) for name in classes], dtype=torch.float64)
        return (weights / (weights * num).sum() * num.sum()).float().to(self.device)

    def _weights(self, target: Tensor, of_classes: Tensor) -> Tensor:
        """Of encoded targets, [N]."""
        if target.is_floating_point():  # shares of the classes, or the outcome whether it is the second one
            shares = target if target.shape[1] > 1 else torch.cat([1 - target, target], 1)
            return shares @ of_classes
        return of_classes[target]

    def _metrics(self) -> dict[str, Metric]:
        """Those of the settings, by name, for one evaluation."""
        choices = self.settings.metrics
        return {choice.name: choice.make(self.action.task(self.dataset)) for choice in choices}

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Examples as they are shown, [B, *shape] in the dtype of the observation space."""
        if self._inputs is None:
            assert self._stream is not None
            return self._stream.batch(rows)[0]
        inputs = self._inputs[rows]
        return inputs.movedim(1, -1) if self.channels == "last" else inputs

    def in_order(self, batch: int) -> Iterator[Tensor]:
        """The rows of every example, [B] int64, so many at a time; what `inputs` returns of them is fetched ahead."""
        if self._stream is None:
            yield from torch.arange(self.num_examples, device=self.device).split(batch)
            return
        self._stream.follow(in_order(self.num_examples, batch))
        passed = []
        try:
            for rows in torch.arange(self.num_examples).split(batch):
                self._stream.show(rows)
                if isinstance(self._targets, Source) and self._targets.ndim == 1:
                    passed.append(self._targets_of(rows))
                yield rows
        finally:
            self._look_ahead()
        if passed:
            self._targets = torch.cat(passed)

    @property
    def targets(self) -> Tensor:
        """Of the examples that are shown, [n] int64 or float32 [n, ...]; where they come with the inputs, by a pass."""
        if isinstance(self._targets, Source):
            self._targets = gathered(self._targets, self.device)
        return self._targets

    def scaled(self, inputs: Tensor) -> Tensor:
        """Inputs [B, *shape] as the networks of an agent see them, float32, images as [B, C, H, W]."""
        return self._scaling.scaled(inputs)

    def checkpoint(self) -> dict[str, Any]:
        """The current targets, the position in the current permutation, and the generators."""
        return {
            "target": self._target,
            "noise": self._noise.get_state(),
            "cursor": self._order.cursor,
            "generator": self._order.began_with,
            "num_answered": self._num_answered,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        rows = self._next_rows()
        target = self._wanted(self._encoded_of(rows), self.inputs(rows))  # to compare with
        low, high = (-math.inf, math.inf) if target.is_floating_point() else (0, len(self.dataset.classes or ()) - 1)
        if self._encoded is not None and not target.is_floating_point():
            low, high = map(int, self._encoded.aminmax())
        self._target = restored(saved["target"], target, "env.target", low=low, high=high)
        self._order.restore(saved["generator"], restored_number(saved["cursor"], "env.cursor", high=self.num_examples))
        if "noise" in saved:  # rlcore 0.1 kept it only where pixels are drawn
            restore_generator(self._noise, saved["noise"])
        self._num_answered = restored_number(saved["num_answered"], "env.num_answered")
        self._look_ahead()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes that fetch examples."""
        if self._stream is not None:
            self._stream.close()

    def _load(
        self, columns: tuple[Column, ...] | None, classes: tuple[str, ...] | None
    ) -> tuple[tables.Table | None, Dataset]:
        """The data set that the settings name; of a table also that, whose rows the inputs are the numbers of.

        Args:
            columns: of an agent that exists already.
            classes: that it knows.
        """
        s = self.settings
        if s.dataset is None:
            raise InputError("env.dataset: missing; give a name (rlcore list datasets) or the path of a file")
        if s.dataset.endswith(tables.SUFFIXES):
            if s.target is None and self.names_classes:
                raise InputError(f"env.target: missing; which column of {s.dataset} is to be predicted?")
            numbers = s.action in ("values", "normal") and classes is None
            return tables.load(s, numbers, columns, classes or ())
        if s.target is not None or s.test_dataset is not None:
            key = "target" if s.target is not None else "test_dataset"
            raise InputError(f"env.{key}: is for tables, .csv or .parquet; env.dataset is {s.dataset}")
        options = FileOptions(s.in_memory, s.workers, s.image_size, s.image_mode)
        return None, load(s.dataset, s.data_dir, s.data_seed, options)

    def _make_action(self, device: torch.device) -> Action:
        """What an answer is, as set by ``action``."""
        return ACTIONS[self.settings.action].from_settings(self.dataset, device, self.settings)

    def _encode(self, targets: Tensor) -> Tensor:
        """Targets [n, ...] as the action encodes them."""
        return self.action.encode(targets)

    def _wanted(self, encoded: Tensor, inputs: Tensor) -> Tensor:
        """What is rewarded, of the encoded targets of some examples, which are shown as ``inputs``."""
        return encoded

    def _as_rewarded(self, encoded: Tensor) -> Tensor:
        """Encoded targets [n, ...] in the form in which they are mixed, if they are."""
        return self.action.shares(encoded) if self._mixes_targets else encoded

    def _encoded_of(self, rows: Tensor | slice) -> Tensor:
        """The encoded targets of some examples, [B, ...]."""
        if self._encoded is not None:
            return self._encoded[rows]
        return self._as_rewarded(self._encode(self._targets_of(rows)))

    def _targets_of(self, rows: Tensor | slice) -> Tensor:
        """The targets of some examples, [B, ...]."""
        if isinstance(self._targets, Tensor):
            return self._targets[rows]
        assert self._stream is not None
        targets = self._stream.batch(rows)[1]
        assert targets is not None
        return targets

    def _show(self) -> Tensor:
        rows = self._next_rows()
        if self._stream is not None:
            self._stream.show(rows)
        inputs, encoded = self.inputs(rows), self._encoded_of(rows)
        if self._augmentations:
            inputs, encoded = self._augmented(inputs, encoded, self._noise)
        self._target = self._wanted(encoded, inputs)
        return inputs

    def _augmented(self, inputs: Tensor, encoded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Examples [N, *shape] and their encoded targets as the augmentations change them."""
        if self.channels == "last":
            inputs = inputs.movedim(-1, 1)
        for augmentation in self._augmentations:
            inputs, encoded = augmentation(inputs, encoded, generator)
        return (inputs.movedim(1, -1) if self.channels == "last" else inputs), encoded

    def _check_augmentations(self) -> None:
        """Tries them out.

        Raises:
            InputError: one is not for these inputs or targets, or returns others.
        """
        if not self._augmentations:
            return
        first = slice(0, 2)
        inputs, encoded = SupervisedEnv.inputs(self, first), self._encoded_of(first)
        shown, wanted = self._augmented(inputs, encoded, torch.Generator(self.device).manual_seed(0))
        for what, before, after in (("inputs", inputs, shown), ("targets", encoded, wanted)):
            if (before.shape, before.dtype) != (after.shape, after.dtype):
                kinds = [f"{x.dtype} {tuple(x.shape)}" for x in (before, after)]
                raise InputError(f"env.augment: the {what} must remain {kinds[0]}, got {kinds[1]}")

    def _next_rows(self) -> Tensor:
        """Those of the next batch, of which each process has its part."""
        return self._order.next()

    def _look_ahead(self) -> None:
        """From here on the next batches are fetched ahead."""
        if self._stream is not None:
            self._stream.follow(self._order.ahead())

    def _check_batch(self) -> None:
        """Raises an InputError if there are fewer examples than a batch has."""
        if self._batch > self.num_examples:
            raise InputError(
                f"env.num_envs: a batch of {self._batch:,} is larger than the {self.num_examples:,} examples of the "
                f"{self.split} split; at most {self.num_examples:,}"
            )

    def _fit(self, columns: tuple[Column, ...] | None) -> Inputs:
        """The space of an input, of the columns of a table, with the scaling fitted to the training split."""
        inputs, is_bytes = self.dataset.train.inputs, self.dataset.train.inputs.dtype == torch.uint8
        shape = tuple(inputs.shape[1:])
        channels = _channels(shape, self.settings.channels)
        if self.settings.scaling == "standard":
            if inputs.ndim == 4 and channels is None:
                raise InputError(f"env.scaling: standard is per channel; {unknown_channels(shape)}")
            dtype = np.uint8 if is_bytes else np.float64 if _is_wide(self.dataset) else np.float32
            mean, std = _mean_and_std(inputs, channels)
            if channels == "last":
                mean, std = (np.moveaxis(x, 0, -1) for x in (mean, std))
            return Inputs(shape, dtype, mean, std, channels, columns)
        space = Inputs(shape, np.uint8 if is_bytes else np.float32, channels=channels, columns=columns)
        if not is_bytes or self.settings.scaling != "unit" or (most := _largest_byte(inputs)) <= 1:
            return space
        if most < DIM:
            self.remarks = [
                *self.remarks,
                f"the largest byte of the inputs is {most}, so that divided by 255 they are at most {most / 255:.2g}; "
                "env.scaling=standard or env.scaling=raw keeps them apart",
            ]
        return Inputs(shape, np.uint8, scale=255.0, channels=channels)


def confusion_matrix(target: Tensor, answer: Tensor, num_classes: int) -> Tensor:
    """How often class i was answered with class j, float64 [K, K].

    Args:
        target: [n] int64, i.
        answer: [n] int64, j.
        num_classes: K.
    """
    counts = torch.bincount(target * num_classes + answer, minlength=num_classes**2)
    return counts.view(num_classes, num_classes).double()


def prediction_errors(answer: Tensor, target: Tensor) -> dict[str, float]:
    """The root of the mean squared error and the mean absolute one of each number, in its own units.

    Args:
        answer: [n, D].
        target: [n, D].

    Returns:
        ``rmse`` and ``mae``; of several numbers ``rmse_<k>`` and ``mae_<k>`` of the first `MOST_CLASSES`.
    """
    errors = answer.double() - target.double()
    means = {"rmse": errors.square().mean(0).sqrt().tolist(), "mae": errors.abs().mean(0).tolist()}
    if errors.shape[1] == 1:
        return {name: value for name, (value,) in means.items()}
    return {f"{name}_{k}": value for name, values in means.items() for k, value in enumerate(values[:MOST_CLASSES])}


def _mean_and_std(
    inputs: Tensor | Source, channels: Channels | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of inputs [n, *shape] per number, of images per channel; 1 of a constant.

    Those of pieces are joined as by Chan, Golub & LeVeque (1983, "Algorithms for Computing the Sample Variance").

    Returns:
        Both as [D, 1, ...], D the first dimension of an example, channels first.
    """
    num, mean, variance = 0, torch.zeros(()), torch.zeros(())
    for piece in pieces(inputs):
        x = _channels_first(piece, channels).double()
        examples = (0, *range(2, x.ndim))
        of_piece, middle = torch.var_mean(x, examples, correction=0, keepdim=True)
        num += len(piece)
        share, offset = len(piece) / num, middle - mean
        variance = (1 - share) * variance + share * of_piece + share * (1 - share) * offset.square()
        mean = mean + share * offset
    std = torch.where(variance.sqrt() > ROUNDING * mean.abs(), variance.sqrt(), 1.0)
    return mean[0].numpy(force=True), std[0].numpy(force=True)


def _largest_byte(inputs: Tensor | Source) -> int:
    """Of inputs that are bytes; those that are made when they are shown are taken for pixels."""
    return 255 if isinstance(inputs, Loaded) else max(int(piece.max()) for piece in pieces(inputs))


def _channels_first(inputs: Tensor, channels: Channels | None) -> Tensor:
    """Images [n, H, W, C] as [n, C, H, W], contiguous; other inputs unchanged."""
    return inputs.movedim(-1, 1).contiguous() if channels == "last" else inputs


def _is_wide(dataset: Dataset) -> bool:
    """Whether float32 would round inputs."""
    splits = (dataset.train, dataset.test)
    return any(split is not None and split.inputs.dtype == torch.float64 for split in splits)


def _for_data(space: Inputs, dataset: Dataset) -> Inputs:
    """The space of an agent for other data; in float64 too where these are and something is subtracted from them.

    Raises:
        InputError: the inputs have another shape.
    """
    shape = tuple(dataset.train.inputs.shape[1:])
    if shape != space.shape:
        raise InputError(f"env.dataset: the agent was trained on inputs of shape {space.shape}; these have {shape}")
    is_shifted = space.dtype != np.uint8 and bool(space.shift.any())
    return space.of_dtype(np.float64) if is_shifted and _is_wide(dataset) else space


def _as_shown(dataset: Dataset, space: Inputs) -> Dataset:
    """The data set with its inputs in the dtype of their space, which may change no number but by rounding.

    Raises:
        InputError: the space is one of bytes, and they are other numbers.
    """
    dtype = {"uint8": torch.uint8, "float32": torch.float32, "float64": torch.float64}[space.dtype.name]

    def shown(inputs: Tensor | Source) -> Tensor | Source:
        if dtype == torch.uint8 and inputs.dtype != dtype:
            _require_bytes(inputs)
        if isinstance(inputs, Source):
            return inputs if inputs.dtype == dtype else inputs.of_dtype(dtype)
        converted = inputs.to(dtype)
        if space.channels != "last" or converted.movedim(-1, 1).is_contiguous():
            return converted
        if isinstance(large := kept(converted), Kept):
            return large
        return _channels_first(converted, "last").movedim(1, -1)  # in memory as networks read them

    return map_inputs(dataset, shown)


def _require_bytes(inputs: Tensor | Source) -> None:
    if not all(torch.equal(piece.byte().to(piece.dtype), piece) for piece in pieces(inputs)):
        low, high = zip(*(map(float, piece.aminmax()) for piece in pieces(inputs)), strict=True)
        seen = f"{min(low):g} to {max(high):g}"
        raise InputError(f"env.dataset: inputs must be bytes, 0 to 255, as in training; got numbers from {seen}")


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
        recall = f"{row[index] / row.sum():.1%}" if row.any() else "-"
        rows.append([name, *(f"{int(count)}" for count in row.tolist()), recall])
    return "\n".join("".join(cell.rjust(width) for cell in row) for row in rows)


def _prepared(dataset: Dataset, settings: SupervisedEnv.Settings, known: tuple[str, ...] | None) -> Dataset:
    """Selects the classes asked for, and holds out examples for evaluation and validation.

    Args:
        dataset: as it was loaded.
        settings: of the environment.
        known: the classes of an agent, of which the data set may lack some; None: its own.
    """
    names = settings.classes
    if names is not None and known is not None:
        names = [name for name in names if name in (dataset.classes or ())]
        names = names if 0 < len(names) < len(dataset.classes or ()) else None
    if names is not None:
        dataset = only_classes(dataset, names)
    if known is not None:
        dataset = classes_as(dataset, known)
    by_class, seed = dataset.classes is not None, settings.data_seed
    if dataset.test is None and settings.test_fraction:
        train, test = hold_out(dataset.train, settings.test_fraction, by_class, seed)
        dataset = replace(dataset, train=train, test=_some("test_fraction", settings.test_fraction, dataset, test))
    if settings.folds is not None:
        train, held = fold(dataset.train, settings.folds, settings.fold, by_class, seed)
        dataset = replace(dataset, train=train, validation=_some("folds", 1 / settings.folds, dataset, held))
    elif share := settings.validation_fraction:
        train, held = hold_out(dataset.train, share, by_class, seed)
        dataset = replace(dataset, train=train, validation=_some("validation_fraction", share, dataset, held))
    if dataset.test is None and dataset.validation is None:
        return replace(dataset, test=dataset.train)
    return dataset


def _some(setting: str, share: float, dataset: Dataset, held: Split) -> Split:
    """The examples held out.

    Raises:
        InputError: there are none.
    """
    if not len(held.targets):
        num = len(dataset.train.targets)
        raise InputError(f"env.{setting}: {share:g} of {num} examples is none; take a larger share, or 0")
    return held

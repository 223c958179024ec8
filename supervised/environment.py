"""SupervisedEnv: a data set as an environment, in which an example is an episode of one step."""

import math
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from gymnasium.spaces import Discrete
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
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
from rlcore.observations import ScaledInputs
from rlcore.seeding import derive_seed, restore_generator, seed_everything
from rlcore.settings import ResolvedPath, Seed
from rlcore.spaces import Channels, Inputs
from rlcore.supervised import tables
from rlcore.supervised.actions import ACTIONS, ERRORS, Action
from rlcore.supervised.augmentations import AugmentationChoice, Augmentations
from rlcore.supervised.datasets import Dataset, class_weights, is_path, lacking, map_inputs, weights_of
from rlcore.supervised.examples import Examples
from rlcore.supervised.images import Mode
from rlcore.supervised.loading import gathered
from rlcore.supervised.metrics import (
    MOST_CLASSES,
    Metric,
    MetricChoice,
    confusion_matrix,
    matrix_text,
    prediction_errors,
)
from rlcore.supervised.preparation import as_shown, divided, fitted_space, load_named, space_for
from rlcore.trees import describe

NOISE = 1
"""Purpose of the seed by which augmentations and pixels are drawn; the seed itself draws the order of the examples."""
EVALUATION_BATCH = 1000
"""Examples that an evaluation shows at once, at most, unless the training batch is larger."""
EVALUATION_NUMBERS = 2**22
"""Numbers in these examples, at most."""


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
        ``targets`` and, for splits of its own, ``test_inputs`` and ``test_targets``, ``validation_inputs`` and
        ``validation_targets``; of a table, ``.csv`` or ``.parquet``; of a folder, ending in ``/``, of such arrays as
        ``.npy`` files, or of images, ``<class>/*.png`` or ``train/<class>/*.png`` and ``test/<class>/*.png``, perhaps
        ``validation/<class>/*.png``."""
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

        @field_validator("target")
        @classmethod
        def _each_once(cls, target: str | list[str] | None) -> str | list[str] | None:
            if isinstance(target, list) and (not target or len(set(target)) < len(target)):
                raise InputError(f"must be one or more columns, each once; got {target}")
            return target

        @field_validator("class_weights", mode="wrap")
        @classmethod
        def _named(cls, given: Any, read: ValidatorFunctionWrapHandler) -> Any:
            """Classes that are numbers in YAML are named by them."""
            try:
                return read({str(name): x for name, x in given.items()} if isinstance(given, dict) else given)
            except ValidationError:  # of several lines, as neither alternative fits
                message = "must be balanced, or a number above 0 by class, as {cat: 2.0}"
                raise InputError(f"{message}; got {given!r}") from None

        @model_validator(mode="after")
        def _check_targets(self) -> "SupervisedEnv.Settings":
            if self.target_scaling != "raw" and self.action not in ("values", "normal"):
                raise InputError(f"target_scaling: is for numbers (values, normal), the action is {self.action}")
            return self

    settings: Settings
    num_examples: int
    names_classes = True
    """Whether an answer names a class, if there are classes."""
    described_with = {"dataset": ("test_dataset", "validation_fraction", "folds", "fold")}  # noqa: RUF012
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
            table, dataset = load_named(settings, columns, known, self.names_classes)
        counts = self.names_classes and settings.action in ("values", "normal") and dataset.counted
        if counts and settings.classes is None and known is None:
            dataset = replace(dataset, classes=None, counted=False)  # integers are numbers where answers are
        self.dataset = divided(dataset, settings, known)
        if table is not None:
            columns = columns or table.fit(gathered(self.dataset.train.inputs).squeeze(1), settings.missing)
            rows = tables.Rows(table.values, columns)
            self.dataset = map_inputs(self.dataset, lambda x: torch.from_numpy(rows[gathered(x)[:, 0].numpy()]))
            self.remarks = tuple(rows.remarks)
        if isinstance(fitted, Inputs):
            space = space_for(fitted, self.dataset)
        else:
            space, remarks = fitted_space(self.dataset, settings, columns)
            self.remarks = (*self.remarks, *remarks)
        self.channels = space.channels
        """Where the channels of images are; None: they are no images, or it is not known."""
        self.dataset = as_shown(self.dataset, space)
        self._scaling = ScaledInputs(space).to(device)
        self.action = self._make_action(torch.device(device))
        shown = self.dataset.train if split == "train" else self.dataset.test
        assert shown is not None
        num_examples = len(shown.targets)
        super().__init__(settings.num_envs, space, self.action.space, device)
        self.num_examples, self.split = num_examples, split
        self._batch = self.num_envs * size()  # of all processes
        self.float64 = space.dtype == np.float64
        if spec is None:
            self._check_batch()
            self.remarks = (*self.remarks, *lacking(self.dataset))
        self._metrics()  # those that there cannot be are better told now than at the first evaluation
        self._class_weights = None
        if settings.class_weights is not None:
            self._class_weights = class_weights(self.dataset, settings.class_weights).to(self.device)
        self.criterion = self.action.criterion(self.dataset)
        part = slice(rank() * self.num_envs, (rank() + 1) * self.num_envs)
        self.examples = Examples(
            shown, self.channels, self.device, settings.in_memory, self._batch, part, settings.shuffle
        )
        """What is shown."""
        self._augmentations = Augmentations(settings.augment, self.channels == "last")
        targets = self.examples.known_targets
        self._encoded = None if targets is None else self._as_rewarded(self._encode(targets))
        if self._augmentations.each:
            if space.dtype == np.uint8 and settings.scaling == "unit" and (np.asarray(space.scale) == 1).all():
                self._augmentations.require_whole("bytes that are only 0 and 1")
            first = slice(0, 2)
            self._augmentations.check(self.examples.inputs(first), self._encoded_of(first))
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
            self.examples.order.generator.manual_seed(seed)
            self.examples.order.begin_epoch()
            self._noise.manual_seed(derive_seed(seed, NOISE) + rank())  # as each process has other examples
        self.examples.look_ahead()
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
            example["weight"] = weights_of(self._target, self._class_weights)
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

    def on_attach(self, agent: Agent) -> None:
        """Refuses an agent that has no use for the weights of classes, if there are any."""
        if self._class_weights is not None and not agent.differentiable:
            name = type(agent).__name__
            raise InputError(f"env.class_weights: {name} learns from the reward alone, which they do not change")

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

    @property
    def target_names(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """The names of several targets of a table, if answers are about them."""
        return self.dataset.target_names if self.names_classes else None

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
            for rows in self.examples.in_order(self.num_envs):
                action, encoded = agent.predict(self.inputs(rows)).action, self._encoded_of(rows)
                rewards.append(self.action.reward(action, encoded))
                wanted.append(encoded.flatten(1) if classes is None else self.examples.targets(rows))
                answers.append(self.action.stated(action, None) if classes is None else self.action.label(action))
                for metric in metrics.values():
                    metric.update(self.action.stated(action, num_classes), wanted[-1])
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
            text = matrix_text(confusion_matrix(target[answered], answer[answered], K), classes)
        return Report(scalars, text, columns=columns, errors=errors)

    @property
    def score_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Environment`; a metric may have several figures, whose names begin with its own."""
        classes, blank = self.dataset.classes, torch.zeros(1, device=self.device)
        if classes is None:
            numbers = blank.expand(1, math.prod(self.dataset.train.targets.shape[1:]))
            measured = (*prediction_errors(numbers, numbers),)
        else:
            measured = (*self.action.answer_scalars(blank.long()), "accuracy", *(f"recall_{name}" for name in classes))
        return (*self.action.scalars(blank), *(f"{name}*" for name in self._metrics()), *measured)

    def _metrics(self) -> dict[str, Metric]:
        """Those of the settings, by the names of their figures, for one evaluation.

        Raises:
            InputError: two have the same name, or one is not for these answers.
        """
        found: dict[str, Metric] = {}
        for choice in self.settings.metrics:
            metric = choice.make(self.action.task(self.dataset))
            if (name := f"{choice.name}{metric.ending}") in found:
                raise InputError(f"env.metrics: {name} is named twice")
            found[name] = metric
        return found

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Examples as they are shown, [B, *shape] in the dtype of the observation space."""
        return self.examples.inputs(rows)

    @property
    def targets(self) -> Tensor:
        """Of the examples that are shown, [n] int64 or float32 [n, ...]; where they come with the inputs, by a pass."""
        return self.examples.all_targets

    def scaled(self, inputs: Tensor) -> Tensor:
        """Inputs [B, *shape] as the networks of an agent see them, float32, images as [B, C, H, W]."""
        return self._scaling.scaled(inputs)

    def checkpoint(self) -> dict[str, Any]:
        """The current targets, the position in the current permutation, and the generators."""
        return {
            "target": self._target,
            "noise": self._noise.get_state(),
            "cursor": self.examples.order.cursor,
            "generator": self.examples.order.began_with,
            "num_answered": self._num_answered,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        rows = self.examples.order.next()
        target = self._wanted(self._encoded_of(rows), self.inputs(rows))  # to compare with
        low, high = (-math.inf, math.inf) if target.is_floating_point() else (0, len(self.dataset.classes or ()) - 1)
        if self._encoded is not None and not target.is_floating_point():
            low, high = map(int, self._encoded.aminmax())
        self._target = restored(saved["target"], target, "env.target", low=low, high=high)
        cursor = restored_number(saved["cursor"], "env.cursor", high=len(self.examples.order.rows))
        self.examples.order.restore(saved["generator"], cursor)
        if "noise" in saved:  # rlcore 0.1 kept it only where pixels are drawn
            restore_generator(self._noise, saved["noise"])
        self._num_answered = restored_number(saved["num_answered"], "env.num_answered")
        self.examples.look_ahead()

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the processes that fetch examples."""
        self.examples.close()

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
        return self.action.shares(encoded) if self._augmentations.mixes_targets else encoded

    def _encoded_of(self, rows: Tensor | slice) -> Tensor:
        """The encoded targets of some examples, [B, ...]."""
        if self._encoded is not None:
            return self._encoded[rows]
        return self._as_rewarded(self._encode(self.examples.targets(rows)))

    def _show(self) -> Tensor:
        rows = self.examples.next()
        inputs, encoded = self.inputs(rows), self._encoded_of(rows)
        if self._augmentations.each:
            inputs, encoded = self._augmentations(inputs, encoded, self._noise)
        self._target = self._wanted(encoded, inputs)
        return inputs

    def _check_batch(self) -> None:
        """Raises an InputError if there are fewer examples than a batch has."""
        if self._batch > self.num_examples:
            raise InputError(
                f"env.num_envs: a batch of {self._batch:,} is larger than the {self.num_examples:,} examples of the "
                f"{self.split} split; at most {self.num_examples:,}"
            )

"""ReconstructionEnv: shows examples, and rewards their reconstruction."""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import PositiveFloat, model_validator
from torch import Tensor

from rlcore.agent import Agent
from rlcore.env_spec import EnvSpec
from rlcore.errors import InputError
from rlcore.evaluation import Report, evaluating
from rlcore.seeding import seed_everything
from rlcore.supervised.actions import ERRORS, Action, GaussianAction, LogOddsAction, ValuesAction
from rlcore.supervised.datasets import Dataset, Split
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.loading import pieces


class ReconstructionEnv(SupervisedEnv):
    """Shows N examples, and rewards reconstructions of their scaled inputs; every step ends N episodes.

    ========  ========  ============================================================  ==================
    log_odds  [N, *O]   Bernoulli log-likelihood of the example, summed over O, nats   carries a gradient
    gaussian  [N, *O]   log-likelihood under normals of these means and of ``std``     carries a gradient
    values    [N, *O]   minus the squared error, summed over O                         carries a gradient
    ========  ========  ============================================================  ==================

    For grey pixels the first is not a likelihood, and is reported as ``cross_entropy``: do not compare it with figures
    of binary ones.
    """

    class Settings(SupervisedEnv.Settings):
        """Settings of reconstruction."""

        action: Literal["log_odds", "gaussian", "values"] = "log_odds"  # type: ignore[assignment]
        """What an answer is, and its reward."""
        binarize: Literal["none", "static", "dynamic"] = "none"
        """Draw each pixel, 1 with the probability of its value: ``static`` once, by ``data_seed``; ``dynamic`` each
        time it is shown (Salakhutdinov & Murray 2008; Burda et al. 2016). Evaluation draws once."""
        std: PositiveFloat = 1.0
        """The standard deviation of ``gaussian``."""

        @model_validator(mode="after")
        def _check(self) -> "ReconstructionEnv.Settings":
            if self.metrics or self.class_weights:
                raise InputError("metrics, class_weights: are of answers to questions, not of reconstructions")
            if self.std != 1.0 and self.action != "gaussian":
                raise InputError(f"std: is a setting of the action gaussian, the action is {self.action}")
            if self.target_scaling != "raw":
                raise InputError("target_scaling: the targets of a reconstruction are the scaled inputs; see scaling")
            return self

    settings: Settings
    names_classes = False

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        dataset: Dataset | None = None,
        split: Literal["train", "test"] = "train",
        spec: EnvSpec | None = None,
    ):
        super().__init__(settings, device, dataset, split, spec)
        self.criterion = self.action.unit
        if settings.binarize != "none":
            self._augmentations.require_whole("pixels that are drawn")
        self._bits: Tensor | None = None
        if settings.binarize == "static":
            self._bits = torch.cat(
                [self._sampled_pixels(rows) for rows in self.examples.in_order(self.evaluation_batch)]
            )
        if settings.binarize != "none":
            blank = torch.zeros((1, *(self.single_action_space.shape or ())), device=self.device)
            self._off, self._on = (self._scaling.unscaled(blank + bit) for bit in (0, 1))
            if any((self.scaled(x) != bit).any() for bit, x in enumerate((self._off, self._on))):
                raise InputError(f"env.binarize: no inputs are scaled to 0 and 1 by env.scaling={settings.scaling}")

    def inputs(self, rows: Tensor | slice) -> Tensor:
        """Examples as they are shown, [B, *shape]; if pixels are drawn, such that they are scaled to 0 and 1."""
        if self.settings.binarize == "none":
            return super().inputs(rows)
        bits = self._sampled_pixels(rows) if self._bits is None else self._bits[rows]
        bits = bits.movedim(1, -1) if self.channels == "last" else bits
        return torch.where(bits, self._on, self._off)

    def twin_settings(self, dataset: Dataset) -> Any:
        """See `SupervisedEnv`; pixels are drawn once."""
        once = "none" if self.settings.binarize == "none" else "static"
        return super().twin_settings(dataset).model_copy(update={"binarize": once})

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Shows every example exactly once, whatever ``num_episodes``.

        Returns:
            The mean of the reward by its name, ``log_likelihood`` or ``cross_entropy`` in nats, or ``squared_error``;
            the column ``reward`` of each example.
        """
        with evaluating(agent):
            seed_everything(seed)
            reward = torch.cat(
                [self.action.reward(agent.predict(obs).action, self.scaled(obs)) for obs in self.batches()]
            )
        text, columns = f"pixels: {self.pixel_kind}", {"reward": reward.tolist()}
        return Report(self.action.scalars(reward), text, columns=columns, errors=ERRORS)

    @property
    def score_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Environment`."""
        return (*self.action.scalars(torch.zeros(1)),)

    def batches(self) -> Iterator[Tensor]:
        """Every example once, in order, as it is shown, [B, *shape]."""
        return map(self.inputs, self.examples.in_order(self.evaluation_batch))

    def pixels(self, answers: Tensor) -> Tensor:
        """What answers [B, *O] look like: probabilities for log-odds, else themselves."""
        return answers.sigmoid() if self.settings.action == "log_odds" else answers

    def shades(self, pixels: Tensor) -> Tensor:
        """Pixels [B, *O] as a figure shows them, in [0, 1]: where the data's are outside, from their least to most."""
        low, high = self.pixel_range
        return ((pixels - low) / (high - low)).clamp(0, 1)

    def answers(self, pixels: Tensor) -> Tensor:
        """The answers [B, *O] that look like pixels, which are in (0, 1) for log-odds."""
        return pixels.logit() if self.settings.action == "log_odds" else pixels

    def mean_input(self) -> Tensor:
        """The mean of the training split, [*O], scaled.

        Probabilities are never 0 or 1: as if there had been one more example of each (Laplace's rule of succession).
        """
        inputs = self.dataset.train.inputs
        total = torch.stack([piece.sum(0, dtype=torch.float64) for piece in pieces(inputs)]).sum(0)
        mean = self.scaled((total / len(inputs)).to(self.device))
        return (mean * len(inputs) + 1) / (len(inputs) + 2) if self.settings.action == "log_odds" else mean

    @property
    def is_likelihood(self) -> bool:
        """Whether the reward is the log-likelihood of what is shown."""
        return self.action.unit == "log_likelihood"

    @property
    def pixel_kind(self) -> str:
        """What pixels the figures are of, to be reported with them."""
        if self.is_binary:
            return f"binary ({'as they are' if self.settings.binarize == 'none' else self.settings.binarize})"
        low, high = self.pixel_range
        shown = "" if (low, high) == (0, 1) else f"; figures show {low:.3g} as 0 and {high:.3g} as 1"
        return f"not binary: not comparable with figures of binary ones{shown}"

    def _make_action(self, device: torch.device) -> Action:
        data = self.dataset
        splits = [split.inputs for split in (data.train, data.test, data.validation) if split is not None]
        found, has_two = [], True  # whether each piece has no number between its least and its most
        for piece in (piece for x in splits for piece in pieces(x)):
            low, high = piece.aminmax()
            has_two = has_two and bool(((piece == low) | (piece == high)).all())
            found += [piece.amin(0), piece.amax(0)]
        ends = torch.stack(found)
        least, most = ends.aminmax()
        has_two = has_two and bool(((ends == least) | (ends == most)).all())
        ends = self.scaled(torch.stack([ends.amin(0), ends.amax(0)]).to(device))
        low, high = ends.aminmax()
        if self.settings.binarize != "none" and not (low >= 0 and high <= 1):
            seen = f"{float(low):g} to {float(high):g}"
            raise InputError(f"env.binarize: inputs must be probabilities in [0, 1], got {seen}; see env.scaling")
        self.pixel_range = (0.0, 1.0) if low >= 0 and high <= 1 else (float(low), float(high))
        """What figures show as black and as white."""
        self.is_binary = self.settings.binarize != "none" or (has_two and bool(low == 0 and high == 1))
        numbers = Dataset(Split(ends, ends), None, None)
        if self.settings.action == "gaussian":
            return GaussianAction(numbers, device, self.settings.std)
        if self.settings.action == "values":
            return ValuesAction(numbers, device)
        action = LogOddsAction(numbers, device)
        if not self.is_binary:
            action.unit = "cross_entropy"
        return action

    def _encode(self, targets: Tensor) -> Tensor:
        return targets  # unused: the target is the input itself

    def _as_rewarded(self, encoded: Tensor) -> Tensor:
        return encoded.float()  # unused, but it can be mixed

    def _wanted(self, encoded: Tensor, inputs: Tensor) -> Tensor:
        pixels = self.scaled(inputs)
        is_changed = self._augmentations.each and self.settings.action == "log_odds"
        return pixels.clamp(0, 1) if is_changed else pixels  # noise may leave the range in which there is a likelihood

    def _sampled_pixels(self, rows: Tensor | slice) -> Tensor:
        """New pixels of examples, [B, *O] bool."""
        return torch.bernoulli(self.scaled(super().inputs(rows)), generator=self._noise).bool()

"""PoolEnv: a data set of few labels, to which the agent adds those of the examples that it doubts."""

import math
from typing import Any, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from rlcore.agent import Agent
from rlcore.agents.ensemble import Ensemble
from rlcore.checkpoint import restored, restored_number
from rlcore.collector import Collector
from rlcore.env_spec import EnvSpec
from rlcore.environment import StepResult
from rlcore.errors import CheckpointError, InputError
from rlcore.evaluation import Report, evaluating
from rlcore.interruption import Interruption
from rlcore.networks.dropout import dropouts
from rlcore.rollout import Rollout
from rlcore.seeding import derive_seed, restore_generator
from rlcore.supervised.datasets import Dataset
from rlcore.supervised.environment import SupervisedEnv
from rlcore.supervised.examples import Order
from rlcore.uncertainty import Classes, ClassUncertainty, uncertainty
from rlcore.uncertainty.acquisition import batch_bald, margin
from rlcore.uncertainty.mc_dropout import MCDropout

POOL = 2
"""Purpose of the seed by which examples are drawn; the seed itself draws their order."""
LARGEST_SEED = 2**31


class LabelledOrder(Order):
    """One permutation of the rows that have a label after another, until they are a batch; of all rows before any has.

    Args:
        order: of all rows, whose place it takes.
    """

    def __init__(self, order: Order):
        self.labelled = torch.empty(0, dtype=torch.int64, device=order.device)
        super().__init__(order.num, order.batch, order.part, order.shuffle, order.device)

    def of_epoch(self) -> Tensor:
        """See `Order.of_epoch`."""
        num = len(self.labelled)
        if not num:
            return super().of_epoch()
        times = range(math.ceil(self.batch / num))
        shuffled = (torch.randperm(num, generator=self.generator, device=self.device) for _ in times)
        return torch.cat([self.labelled[places] for places in shuffled])


class PoolEnv(SupervisedEnv):
    """Shows those of its examples that have a label: few at first, and after each round those that were acquired.

    Pool-based active learning. A round is a number of batches of the labelled examples, with or without a new start of
    the agent. Then it answers about the others, several times, and its doubt says which of them get a label:

    =========  =======================================================================================================
    random     drawn, whatever the agent says
    entropy    the largest predictive entropy H[E p]
    margin     the smallest distance of the two most likely classes (Scheffer et al. 2001)
    bald       the largest mutual information of label and parameters (Houlsby et al. 2011; Gal et al. 2017)
    batchbald  the largest mutual information of all labels of the batch and the parameters (Kirsch et al. 2019)
    =========  =======================================================================================================

    The answers are those of an ensemble's members, or of MC dropout. The first labels are spread evenly over the
    classes. An epoch of `Trainer.Settings.epochs` is a round, and a schedule of the agent is run through in each round
    that begins anew.
    """

    class Settings(SupervisedEnv.Settings):
        """Settings of a pool."""

        action: Literal["logits", "log_odds", "label"] = "logits"
        """What an answer is, and its reward."""
        acquisition: Literal["random", "entropy", "margin", "bald", "batchbald"] = "batchbald"
        """How the examples are chosen that get a label."""
        initial: PositiveInt = 20
        """Labels at first, drawn by the run's seed, as many of each class, up to one."""
        acquire: PositiveInt = 5
        """Labels that a round adds."""
        labels: PositiveInt = 300
        """Labels at last."""
        batches: PositiveInt = 300
        """Batches of a round; with fewer labels than a batch has, it shows some of them more than once."""
        restart: bool = True
        """Begin each round with new parameters and a new optimizer, instead of those of the round before."""
        passes: int = Field(default=20, ge=2, le=1000)
        """T, the passes of Monte Carlo dropout."""
        candidates: PositiveInt | None = None
        """Examples that are drawn for the choice, without replacement; null: all that have no label."""
        configurations: PositiveInt = 10_000
        """``batchbald``: configurations of labels of a batch up to which its entropy is exact, and above which as many
        are drawn."""

        @model_validator(mode="after")
        def _check(self) -> "PoolEnv.Settings":
            if self.labels < self.initial:
                raise InputError(f"labels: must be at least initial={self.initial:,}, got {self.labels:,}")
            if self.candidates is not None and self.candidates < self.acquire:
                raise InputError(f"candidates: must be at least acquire={self.acquire:,}, got {self.candidates:,}")
            return self

    settings: Settings

    def __init__(
        self,
        settings: Settings,
        device: torch.device | str = "cpu",
        dataset: Dataset | None = None,
        split: Literal["train", "test"] = "train",
        spec: EnvSpec | None = None,
    ):
        self.curve: dict[int, float] = {}
        """Of each number of labels at which it was evaluated, the latest accuracy."""
        self.source = self
        """Where the agent learns."""
        super().__init__(settings, device, dataset, split, spec)
        self._order = self.examples.order = LabelledOrder(self.examples.order)
        self._draws = torch.Generator(self._order.device)
        self._num_batches = 0  # of this round
        if split == "train":
            self._check_pool()
            self.num_examples = settings.batches * self._batch

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Shows the next N examples; with a seed, the first N of a new set of first labels."""
        if seed is not None and self.split == "train":
            self._draws.manual_seed(derive_seed(seed, POOL))
            self._order.labelled, self._num_batches, self.curve = self._first(), 0, {}
        return super().reset(seed=seed)

    def step(self, actions: Tensor) -> StepResult:
        """See `SupervisedEnv.step`."""
        self._num_batches += 1
        return super().step(actions)

    def evaluation(self, num_envs: int) -> "SupervisedEnv":
        """A twin that shows the test split, and reports how many labels there are here."""
        twin = super().evaluation(num_envs)
        assert isinstance(twin, PoolEnv)
        twin.source = self
        return twin

    def on_attach(self, agent: Agent) -> None:
        """Refuses an agent whose answers do not say what the acquisition needs."""
        super().on_attach(agent)
        if self.settings.acquisition != "random":
            try:
                self._answers(agent, torch.zeros(1, dtype=torch.int64, device=self.labelled.device))
            except InputError as error:
                message = f"{error}; or an ensemble (agent.name=ensemble), or env.acquisition=random"
                raise InputError(f"env.acquisition: {self.settings.acquisition}: {message}") from None

    def collector(self, seed: int) -> "PoolCollector":
        """What acquires labels between two rounds."""
        return PoolCollector(self, seed)

    @property
    def labelled(self) -> Tensor:
        """The rows that have a label, in the order of acquisition, [n] int64; none before the first reset."""
        return self._order.labelled

    @property
    def num_missing(self) -> int:
        """How many labels will be acquired at the end of this round."""
        return min(self.settings.acquire, self.settings.labels - len(self.labelled))

    @property
    def round_progress(self) -> float:
        """The share of the round that is done, in [0, 1]."""
        return min(1.0, self._num_batches / self.settings.batches)

    def acquire(self, agent: Agent) -> None:
        """Adds labels, as the doubt of the agent says, and begins a round.

        Args:
            agent: the agent that learns here; begins anew, if the settings say so.
        """
        s = self.settings
        has_label = torch.zeros(len(self.examples), dtype=torch.bool, device=self.labelled.device)
        has_label[self.labelled] = True
        rows = (~has_label).nonzero().squeeze(1)
        drawn = torch.randperm(len(rows), generator=self._draws, device=rows.device)[: s.candidates]
        self._order.labelled = torch.cat([self.labelled, self._chosen(agent, rows[drawn])])
        self._num_batches = 0
        if s.restart:
            agent.reinitialize(self._drawn_seed())
        self._order.begin_epoch()

    def score(self, agent: Agent, num_episodes: int, seed: int) -> Report:
        """Shows every test example exactly once; see `SupervisedEnv.score`.

        Returns:
            Also ``labels``, how many the agent has learned from, unless it does not learn here.
        """
        report = super().score(agent, num_episodes, seed)
        if num_labels := len(self.source.labelled):
            self.source.curve[num_labels] = report.scalars["accuracy"]
            report.scalars["labels"] = num_labels
        return report

    @property
    def score_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """See `Environment`."""
        return (*super().score_names, "labels")

    def checkpoint(self) -> dict[str, Any]:
        """What `SupervisedEnv.checkpoint` has, the labelled rows, the place in the round, and the curve."""
        return {
            **super().checkpoint(),
            "labelled": self.labelled,
            "draws": self._draws.get_state(),
            "num_batches": self._num_batches,
            "curve": self.curve,
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Puts back what `checkpoint` returned."""
        last = len(self.examples) - 1
        self._order.labelled = restored(saved["labelled"], self.labelled, "env.labelled", free=0, low=0, high=last)
        if not 0 < len(self.labelled) == len(self.labelled.unique()):
            raise CheckpointError("the checkpoint does not fit: env.labelled has a row twice, or none")
        self._order.begin_epoch()
        restore_generator(self._draws, saved["draws"])
        self._num_batches = restored_number(saved["num_batches"], "env.num_batches")
        self.curve = {int(num_labels): float(accuracy) for num_labels, accuracy in saved["curve"].items()}
        super().restore(saved)

    def _first(self) -> Tensor:
        """The rows of the first labels, [n] int64: classes in turn, and each class in random order."""
        target = self.examples.all_targets.to(self.labelled.device)
        order = torch.randperm(len(target), generator=self._draws, device=target.device)
        target = target[order]
        by_class = target.argsort(stable=True)
        counts = torch.bincount(target)
        place = torch.arange(len(target), device=target.device) - (counts.cumsum(0) - counts)[target[by_class]]
        turn = torch.empty_like(place)
        turn[by_class] = place  # how many of its class come before
        return order[turn.argsort(stable=True)][: self.settings.initial]

    def _chosen(self, agent: Agent, rows: Tensor) -> Tensor:
        """Those of the candidates [C] that get a label, [n] int64."""
        s, num = self.settings, self.num_missing
        if s.acquisition == "random":
            return rows[:num]
        p = self._answers(agent, rows)
        if s.acquisition == "batchbald":
            return rows[batch_bald(p, num, s.configurations, self._draws).chosen]
        found = uncertainty(Classes(p))
        assert isinstance(found, ClassUncertainty)
        score = {
            "entropy": found.predictive_entropy,
            "margin": margin(found.probabilities),
            "bald": found.mutual_information,
        }[s.acquisition]
        return rows[score.topk(num).indices]

    def _answers(self, agent: Agent, rows: Tensor) -> Tensor:
        """The class probabilities that the agent states for rows [C], [T, C, K].

        Raises:
            InputError: it states none of these classes, or only one answer where several are needed.
        """
        s, ask = self.settings, agent.answers
        needs_several = s.acquisition in ("bald", "batchbald")
        if not isinstance(agent, Ensemble) and (needs_several or dropouts(agent)):
            ask = MCDropout(agent, s.passes, self._drawn_seed(), shared=s.acquisition == "batchbald").answers
        pieces = []
        with evaluating(agent):
            for part in rows.split(self.evaluation_batch):
                answers = ask(self.inputs(part))
                if not isinstance(answers, Classes):
                    raise InputError(f"{type(agent).__name__} answers with numbers, not with probabilities of classes")
                pieces.append(answers.p)
        return torch.cat(pieces, 1).to(rows.device)

    def _drawn_seed(self) -> int:
        return int(torch.randint(LARGEST_SEED, (), generator=self._draws, device=self._draws.device))

    def _check_pool(self) -> None:
        """Raises an InputError if the examples are not of classes, or too few."""
        s, num = self.settings, len(self.examples)
        if self.dataset.classes is None:
            raise InputError("env.dataset: a pool needs classes to ask for, the targets of this data set are numbers")
        if s.labels > num:
            raise InputError(f"env.labels: the pool has {num:,} examples, {s.labels:,} labels were asked for; lower it")


class PoolCollector(Collector):
    """Plays a pool, and has it acquire labels at the end of a round, after the evaluation that may be due then."""

    env: PoolEnv

    def collect(self, agent: Agent, progress: float = 0.0, interruption: Interruption | None = None) -> Rollout:
        """See `Collector.collect`; the progress is that of the round, if each begins anew."""
        env = self.env
        if env.round_progress >= 1 and env.num_missing > 0:
            env.acquire(agent)
            self.obs, _ = env.reset()
        return super().collect(agent, env.round_progress if env.settings.restart else progress, interruption)

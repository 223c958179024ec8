"""Checks of how an agent learns: by the figures that it logged, and by how far its weights have moved."""

from rlcore.doctor.examination import Examination, Finding

LOWER_RATE = "lower agent.learning_rate, by a factor of 10 at first"


def rewards_unscaled(x: Examination) -> Finding | None:
    """The value network explains nothing, and what it is to say is far from the numbers that networks begin with."""
    x.require_progress(0.1)
    explained, spread = x.curve("train/explained_variance").last, x.targets.std().item()
    if explained > 0.1 or spread < 30:  # targets within +-10 are advised (Jones 2021, "Debugging RL")
        return None
    evidence = f"explained variance is {explained:.2f}, and returns to go have a standard deviation of {spread:,.0f}"
    return Finding(evidence, "set agent.normalize_rewards=true, or scale the rewards to returns of about 10")


def entropy_never_falls(x: Examination) -> Finding | None:
    """A policy is as random as at first, late in its run."""
    x.require_progress(0.5)
    share = x.curve("train/entropy").last / x.highest_entropy
    weight = getattr(x.agent.settings, "entropy_coefficient", 0.0)
    if share < 0.95 or "train/alpha" in x.curves or (weight < 0.1 and x.knows_nothing is None):
        return None
    remedy = "raise agent.learning_rate, or look at the reward"
    if weight:
        remedy = f"lower agent.entropy_coefficient from {weight:g}"
    return Finding(f"entropy is {share:.0%} of a uniform policy's after {x.progress:.0%} of the run", remedy)


def entropy_collapses(x: Examination) -> Finding | None:
    """A policy explores no more, and is no better than random actions."""
    share = x.curve("train/entropy").last / x.highest_entropy
    if share > 0.05 or (nothing := x.knows_nothing) is None:
        return None
    remedy = "raise agent.entropy_coefficient, to 0.01, or lower agent.learning_rate"
    return Finding(f"entropy is {share:.1%} of a uniform policy's, and {nothing}", remedy)


def kl_spikes(x: Examination) -> Finding | None:
    """Updates change the policy far more than what was collected can tell of."""
    kl = x.curve("train/approx_kl").value
    share = float((kl > 0.2).mean())  # nats; usual is below 0.02 (Huang et al. 2022, "37 implementation details", 12)
    if share < 0.05:
        return None
    evidence = f"approx_kl exceeds 0.2 nats in {share:.0%} of the logs, at most {kl.max():.3g}"
    return Finding(evidence, f"{LOWER_RATE}, set agent.target_kl=0.02, or fewer agent.num_epochs")


def clip_fraction_high(x: Examination) -> Finding | None:
    """Many rows of an update are clipped, so that later epochs learn little from them."""
    fraction, clip = x.curve("train/clip_fraction").last, x.setting("clip_range")
    if fraction < 0.35:  # shipped configs have at most 0.23
        return None
    remedy = f"lower agent.learning_rate or agent.num_epochs={x.setting('num_epochs')}"
    return Finding(f"{fraction:.0%} of the rows are clipped, by clip_range={clip:g}", f"{remedy}, or raise clip_range")


def log_std_explodes(x: Examination) -> Finding | None:
    """The standard deviation of actions grows far beyond where it began."""
    std = x.curve("train/action_std")
    growth, end = std.value[-1] / std.first, std.value[-1]
    if growth < 3:  # a policy that learns narrows
        return None
    clipped = x.curve("train/clipped_share").value[-1]
    evidence = f"the actions' standard deviation has grown {growth:.1f} times, to {end:.3g}; {clipped:.0%} are clipped"
    weight = getattr(x.agent.settings, "entropy_coefficient", 0.0)
    return Finding(evidence, f"lower agent.entropy_coefficient from {weight:g}, or set agent.squash=true")


def learning_rate_too_large(x: Examination) -> Finding | None:
    """Weights have gone many times their length, and nothing was learned, or the policy or the loss leapt."""
    if x.movement < 5 or (harm := x.learned_nothing or _leap(x)) is None:
        return None
    evidence = f"weights have moved {x.movement:.1f} times their first length in {x.num_updates:,} updates, and {harm}"
    return Finding(evidence, f"{LOWER_RATE}: it is {x.setting('learning_rate'):g}")


def _leap(x: Examination) -> str | None:
    """How a supervised loss is seen to have risen far above where it began, or a policy to have changed at once."""
    if x.agent.differentiable:
        loss = x.curve("train/loss")
        leapt = loss.value.max() > 5 * loss.value[0] > 0
        return f"train/loss leapt from {loss.value[0]:.3g} to {loss.value.max():.3g}" if leapt else None
    share = float((x.curve("train/approx_kl").value > 1).mean())
    return f"approx_kl exceeds 1 nat in {share:.0%} of the logs" if share > 0.05 else None


def learning_rate_too_small(x: Examination) -> Finding | None:
    """Weights have hardly moved in many updates, and nothing was learned."""
    x.require_progress(0.5)
    if not 1e-7 < x.movement <= 0.02 or x.num_updates < 50:  # Adam at 1e-3 takes some 5 steps to move 64 units by 2 %
        return None  # and what has not moved at all has no gradient
    if (nothing := x.learned_nothing) is None:
        return None
    evidence = f"weights have moved by {x.movement:.1%} of their length in {x.num_updates:,} updates, and {nothing}"
    rate = x.setting("learning_rate")
    return Finding(evidence, f"raise agent.learning_rate, by a factor of 100 at first: it is {rate:g}")


def too_few_updates(x: Examination) -> Finding | None:
    """The whole run has but a handful of gradient steps."""
    waits = getattr(x.agent.settings, "learning_starts", 0) / x.trainer.total_steps  # while a replay is filled
    x.require_progress(min(1.0, waits + 0.25))
    planned = x.num_updates * (1 - waits) / (x.progress - waits) if waits < x.progress else 0
    if planned >= 30:
        return None
    names = [name for name in ("horizon", "minibatch_size", "num_epochs") if hasattr(x.agent.settings, name)]
    ways = ", ".join(f"agent.{name}={getattr(x.agent.settings, name)}" for name in names) or "env.num_envs"
    evidence = f"{x.num_updates:,} updates in {x.progress:.0%} of the run, so {planned:.0f} in all"
    return Finding(evidence, f"smaller rollouts or minibatches, more epochs ({ways}), or a longer run")


def replay_ratio(x: Examination) -> Finding | None:
    """What is collected is hardly ever learned from, or over and over."""
    each, batch = x.setting("updates_per_step"), x.setting("batch_size")
    times = each * batch
    if times < 1:
        evidence = f"a step is learned from {times:.2g} times: updates_per_step={each:g} batches of {batch}"
        return Finding(evidence, f"raise agent.updates_per_step, to {8 / batch:.2g} or more")
    if each > 32:  # 20 needs ten critics (Chen et al. 2021, REDQ)
        return Finding(
            f"{each:g} batches are learned from for each step", "lower agent.updates_per_step, to 1 at first"
        )
    return None

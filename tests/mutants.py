"""Changes of one sign, factor or constant, each of which a test must find: ``make mutants [ARGS="'NAME' ..."]``.

A mutant is a copy of the project with one such change. It dies if the tests concerned fail; one that lives is a fault
of the tests. First a copy without a change must live. Everything happens in a temporary folder.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
COPIED = (
    "rlcore",
    "agents",
    "envs",
    "supervised",
    "configs",
    "docs",
    "examples",
    "tests",
    "README.md",
    "setup.cfg",
    "pyproject.toml",
)


class Mutant(NamedTuple):
    """A change of one place."""

    file: str
    before: str
    """Text that the file has."""
    after: str
    tests: str
    """What pytest is given: at least one of these must fail."""


FORMS, AGENTS = "tests/test_closed_forms.py", "tests/test_agents.py"
DISTRIBUTED = "tests/test_distributed.py"
SPLITS = "tests/test_splits.py"
OFF_POLICY, OFFLINE = "tests/test_off_policy.py", "tests/test_offline.py"
MUTANTS = {
    "judged by the test split": Mutant(
        "supervised/environment.py", " if held is None else replace(self.dataset, test=held", " #", SPLITS
    ),
    "the best by the largest error": Mutant(
        "rlcore/trainer.py", "-scalars[criterion] if criterion in report.errors else", "", SPLITS
    ),
    "a class held out whole": Mutant("supervised/datasets.py", "held = held & ~(firsts & is_whole)", "pass", SPLITS),
    "gradients summed over batches": Mutant(
        "rlcore/optimizers.py", "(loss / self.num_losses).backward()", "loss.backward()", "tests/test_pathwise.py"
    ),
    "gradients that wait are not saved": Mutant(
        "rlcore/optimizers.py", '"grads": grads}', '"grads": []}', "tests/test_pathwise.py"
    ),
    "a frozen batch norm learns": Mutant(
        "agents/bases/pathwise.py", "            module.eval()\n", "            pass\n", "tests/test_pathwise.py"
    ),
    "targets are not mixed": Mutant(
        "supervised/augmentations.py", "targets[order].lerp(targets, share)", "targets", "tests/test_augmentations.py"
    ),
    "evaluation is augmented": Mutant(
        "supervised/environment.py", '            "augment": [],\n', "", "tests/test_augmentations.py"
    ),
    "processes: a normaliser of its own rows": Mutant(
        "rlcore/normalization.py",
        "count, mean, var = distributed.moments(x)",
        "x = x.double()\n        count, mean, var = len(x), x.mean(0), x.var(0, correction=0)",
        DISTRIBUTED,
    ),
    "processes: gradients summed": Mutant(
        "rlcore/distributed.py", "flat /= flat[-1].clone()", "flat /= _rows", DISTRIBUTED
    ),
    "processes: rows unweighed": Mutant(
        "rlcore/distributed.py", "flat = torch.cat(parts).mul_(_rows)", "flat = torch.cat(parts)", DISTRIBUTED
    ),
    "processes: seeds by local number": Mutant(
        "rlcore/environment.py", "return rank() * self.num_envs", "return 0", DISTRIBUTED
    ),
    "processes: advantages by their own moments": Mutant(
        "agents/ppo.py", "if distributed.size() == 1:", "if True:", DISTRIBUTED
    ),
    "processes: each its own state of rank 0": Mutant(
        "rlcore/trainer.py", "own = ranks[distributed.rank() - 1]", "own = {**learns, 'buffers': {}}", DISTRIBUTED
    ),
    "processes: one stream for all": Mutant(
        "rlcore/distributed.py", "return (rank(),) if rank() else ()", "return ()", DISTRIBUTED
    ),
    "former selves play greedily": Mutant(
        "envs/games/versus.py",
        "distribution(self.observe(state)).sample()",
        "distribution(self.observe(state)).mode",
        FORMS,
    ),
    "puct counts its own visit twice": Mutant(
        "rlcore/search/scores.py", "e.prior * (1 + e.visits.sum", "e.prior * (2 + e.visits.sum", FORMS
    ),
    "passes doubled": Mutant("agents/bases/self_play.py", "round(s.passes *", "round(2 * s.passes *", FORMS),
    "target_kl without its factor": Mutant("agents/ppo.py", "> 1.5 * s.target_kl", "> s.target_kl", FORMS),
    "normalised rewards unclipped": Mutant(
        "rlcore/normalization.py", "(rollout.reward * scale).clamp(-CLIP, CLIP)", "(rollout.reward * scale)", FORMS
    ),
    "DQN without its target network": Mutant(
        "examples/dqn.py", "V = self.target(b.next_obs)", "V = self.q(b.next_obs)", FORMS
    ),
    "clip fraction of the logarithm": Mutant(
        "agents/ppo.py", "((log_ratio.exp() - 1).abs() > clip)", "(log_ratio.abs() > clip)", FORMS
    ),
    "the gate opens above its threshold": Mutant(
        "agents/alphazero.py", "float(result >= threshold)", "float(result > threshold)", FORMS
    ),
    "the LSTM forgets": Mutant(
        "rlcore/networks/recurrent.py", '["bias_ih_l0"][H : 2 * H] = 1.0', '["bias_ih_l0"][H : 2 * H] = 0.0', FORMS
    ),
    "NatureCNN begins as torch does": Mutant(
        "rlcore/networks/pixels.py", "        _orthogonal(self, SQRT_2)\n", "", FORMS
    ),
    "a large value head": Mutant(
        "agents/ppo.py", "orthogonal_(self.value_head.weight, 1.0)", "orthogonal_(self.value_head.weight, 2.0)", FORMS
    ),
    "a time limit is a death": Mutant(
        "rlcore/returns.py", "~terminated", "~(terminated | truncated)", f"tests/test_returns.py {AGENTS}"
    ),
    "the loser is paid": Mutant("rlcore/game.py", "DISCOUNT = -1", "DISCOUNT = 1", "tests/test_search.py"),
    "the entropy is punished": Mutant(
        "agents/ppo.py", "total - s.entropy_coefficient * pi", "total + s.entropy_coefficient * pi", AGENTS
    ),
    "the objective is minimised": Mutant(
        "agents/ppo.py", "policy_loss = -clipped", "policy_loss = clipped", AGENTS
    ),
    "the KL's mean over coordinates": Mutant(
        "agents/autoencoder.py",
        "self.minimize(beta * cost.sum()",
        "self.minimize(beta * cost.mean()",
        "tests/test_autoencoder.py",
    ),
    "priors before masks": Mutant(
        "rlcore/search/scores.py",
        "return softmax(logits + illegal) + illegal",
        "return softmax(logits) + illegal",
        "tests/test_search.py",
    ),
    "evaluation drops units": Mutant(
        "rlcore/evaluation.py",
        "        agent.eval()\n        yield",
        "        yield",
        "tests/test_trainer.py tests/test_uncertainty.py tests/test_supervised.py",
    ),
    "acting and the environment share a seed": Mutant(
        "rlcore/seeding.py", "TRAINING, EVALUATION, CLOSING, ACTING, WORKER = range(5)",
        "TRAINING, EVALUATION, CLOSING, ACTING, WORKER = 0, 1, 2, 0, 4", "tests/test_trainer.py tests/test_effects.py",
    ),
    "rows after an episode are data": Mutant(
        "rlcore/rollout.py",
        "x[self._places] if self.ragged else x.flatten(0, 1)",
        "x.flatten(0, 1)",
        f"tests/test_rollout.py {AGENTS}",
    ),
    "a cut step is followed by the next episode": Mutant(
        "rlcore/replay/transitions.py", "if self._num_final:", "if False:", "tests/test_replay.py"
    ),
    "a window goes on beyond an episode's end": Mutant(
        "rlcore/returns.py", "goes_on = inside & ~done[k:]", "goes_on = inside", "tests/test_replay.py"
    ),
    "weights favour what is drawn often": Mutant(
        "rlcore/replay/transitions.py", "/ total) ** -beta", "/ total) ** beta", "tests/test_replay.py"
    ),
    "the other half of a joint batch": Mutant(
        "agents/crossq.py", "Q, next_Q = both.chunk(2, 1)", "next_Q, Q = both.chunk(2, 1)", OFF_POLICY
    ),
    "the running statistics where critics learn": Mutant(
        "agents/crossq.py", "self.critic.train()", "self.critic.eval()", OFF_POLICY
    ),
    "all target critics answer": Mutant(
        "agents/bases/critic.py", "numbers, which=which)", "numbers, which=None)", OFF_POLICY
    ),
    "a gradient is twice as large": Mutant(
        "rlcore/networks/linear.py", "linear(grad.t(), x.t())", "linear(2 * grad.t(), x.t())", "tests/test_linear.py"
    ),
    "the last observation is the next first": Mutant(
        "rlcore/gym_vector.py", 'obs = _with(obs, info["final_obs"], done)', "pass", "tests/test_gym_vector.py"
    ),
    "rows that are not all there are drawn": Mutant(
        "rlcore/replay/transitions.py", "numbers[: parts[0][1] - parts[0][0]] = self._largest",
        "numbers[:-1] = self._largest", "tests/test_replay.py"
    ),
    "the largest critic counts": Mutant("agents/sac.py", "return Q.amin(0)", "return Q.amax(0)", OFF_POLICY),
    "a recorded step is followed by itself": Mutant(
        "rlcore/experience/recorded.py", "obs, next_obs, action = take(self.obs, place), take(self.obs, place + 1)",
        "obs, next_obs, action = take(self.obs, place), take(self.obs, place)", OFFLINE,
    ),
    "random windows follow one another": Mutant(
        "rlcore/experience/recorded.py", "cut = ~terminated if t == num_steps - 1 else", "cut =", OFFLINE
    ),
    "a time limit in a data set is a death": Mutant(
        "rlcore/experience/recorded.py", "terminated = self.terminated[step]\n            cut",
        "terminated = self.terminated[step] | self.truncated[step]\n            cut", OFFLINE,
    ),
    "beta-NLL of the standard deviation": Mutant(
        "agents/supervised.py", "variance**beta", "variance**(beta / 2)", "tests/test_numbers.py"
    ),
    "CRPS without its constant": Mutant(
        "rlcore/uncertainty/calibration.py",
        "2 * density - 1 / math.sqrt(math.pi)",
        "2 * density",
        "tests/test_numbers.py",
    ),
    "the variance of a mean of answers": Mutant(
        "rlcore/uncertainty/answers.py", "2 * together.std.log()", "together.std.log()", "tests/test_numbers.py"
    ),
    "the expectile of what was worst": Mutant(
        "agents/iql.py", "torch.where(error < 0, 1 - tau, tau)", "torch.where(error < 0, tau, 1 - tau)", OFFLINE
    ),
    "conservative of what was recorded": Mutant(
        "agents/cql.py", "(of_all - Q.mean(2))", "(Q.mean(2) - of_all)", OFFLINE
    ),
    "the density of draws left out": Mutant("agents/cql.py", ".mean(2) - torch.cat(density)", ".mean(2)", OFFLINE),
    "imitate the less, the larger the critic": Mutant(
        "agents/td3_bc.py", "- weight * Q.mean()", "+ weight * Q.mean()", OFFLINE
    ),
    "a replay's columns go on into the next": Mutant(
        "rlcore/experience/recorded.py", "((step == self.last[step]) | (t == T - 1))", "(step == self.last[step])",
        OFFLINE,
    ),
    "what follows an end is recorded as its end": Mutant(
        "rlcore/commands/record.py", "where(done, info.get(\"final_obs\", obs), next_obs)", "next_obs",
        "tests/test_recording.py",
    ),
    "a death has a future": Mutant(
        "agents/sac.py", "(b.discount * ~b.terminated)[:, None] * V", "b.discount[:, None] * V", OFF_POLICY
    ),
    "targets follow at once": Mutant(
        "agents/bases/targets.py", "list(source.parameters()), tau)", "list(source.parameters()), 1.0)", OFF_POLICY
    ),
    "the temperature falls where entropy is short": Mutant(
        "agents/bases/critic.py", "self.log_alpha * (entropy", "self.log_alpha * -(entropy", OFF_POLICY
    ),
    "noise on the target is not bounded": Mutant(
        "agents/td3.py", ".clamp(-s.target_noise_clip, s.target_noise_clip)", "", OFF_POLICY
    ),
    "lambda-returns go on over a death": Mutant(
        "agents/pqn.py", "next_V, rollout.terminated,", "next_V, rollout.truncated,", OFF_POLICY
    ),
    "the trust region is ten times as large": Mutant(
        "agents/trpo.py", "(2 * s.target_kl / bend)", "(20 * s.target_kl / bend)", "tests/test_trpo.py"
    ),
    "bytes are not scaled": Mutant(
        "rlcore/observations.py", "return x.float() / self.range", "return x.float()", "tests/test_observations.py"
    ),
}  # fmt: skip


def survives(mutant: Mutant) -> bool:
    """Whether no test finds a mutant."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in COPIED:
            if (ROOT / part).is_dir():
                shutil.copytree(ROOT / part, folder / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / part, folder / part)
        file = folder / mutant.file
        text = file.read_text(encoding="utf-8")
        if mutant.before not in text:
            raise SystemExit(f"{mutant.file} has no {mutant.before!r}: the mutant is out of date")
        if mutant.before:
            file.write_text(text.replace(mutant.before, mutant.after), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "2", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [*command, *mutant.tests.split()], cwd=folder, env=environment, capture_output=True, check=False
        )
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Tries all mutants, or those named; 1 if one survives."""
    chosen = {name: MUTANTS[name] for name in names or MUTANTS}
    tests = " ".join(sorted({test for mutant in chosen.values() for test in mutant.tests.split()}))
    if not survives(Mutant("setup.cfg", "", "", tests)):
        print("the tests fail without a change")
        return 1
    alive = 0
    for name in chosen:
        lives = survives(MUTANTS[name])
        alive += lives
        print(f"{'LIVES' if lives else 'dies '}  {name}", flush=True)
    return alive > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The results page.

    python benchmarks/results.py run NAME ...      trains each config's seeds, resuming interrupted runs; then as page
    python benchmarks/results.py page              writes docs/results.md, its figure and the README's table
    python benchmarks/results.py under SECONDS     prints the configs whose runs take less, and lack no other run

A run is evaluated by its last checkpoint: returns over 100 episodes with seeds that training never used, other figures
by the final evaluation. A config's seeds are those given with --seeds, else those of its result file, else 1 to 5: a
config whose settings were chosen on some seeds is shown with others.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import trim_mean
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlcore import config
from rlcore.experience.reading import is_dataset
from rlcore.run import Run

HERE = Path(__file__).resolve().parent
RUNS, RESULTS, DOCS = HERE.parent / "runs" / "results", HERE / "results", HERE.parent / "docs"
SEEDS = [1, 2, 3, 4, 5]
EPISODES = 100
FEW = 3
"""Seeds below which nothing can be said of their spread."""
COLUMNS = (
    "config",
    "steps",
    "figure",
    "IQM [95 %]",
    "seeds",
    "each",
    "claimed",
    "published, or to compare",
    "seconds",
    "steps/s",
)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run")
    run.add_argument("names", nargs="+")
    run.add_argument("--seeds", nargs="+", type=int)
    run.add_argument("--jobs", type=int, default=2)
    commands.add_parser("page")
    commands.add_parser("under").add_argument("seconds", type=float)
    given = parser.parse_args()
    if given.command == "under":
        print(*[name for name, result in load().items() if median(result, "seconds") < given.seconds and can_run(name)])
        return
    if given.command == "run":
        for name in given.names:
            seeds = sorted(set(given.seeds or map(int, load().get(name, {}).get("seeds", SEEDS))))
            with ThreadPoolExecutor(given.jobs) as pool:
                list(pool.map(lambda seed, name=name: train(name, seed), seeds))
            (RESULTS / f"{name}.json").write_text(json.dumps(gathered(name, seeds), indent=1) + "\n")
    write_page(load())


def train(name: str, seed: int) -> None:
    """Trains one run to its end, from where it was interrupted."""
    path = RUNS / name / f"seed{seed}"
    if not (path / "checkpoints" / "last.pt").is_file():
        shutil.rmtree(path, ignore_errors=True)  # interrupted before its first checkpoint
        rlcore("train", name, f"seed={seed}", "threads=1", "--run-dir", path)
    run, shipped = Run(path), config.load(name).config
    made = run.load().config
    if (made.env, made.agent, made.trainer) != (shipped.env, shipped.agent, shipped.trainer):
        sys.exit(f"{path} has other settings than {name} has now; move it away to train it again")
    if not run.result.get("finished"):
        rlcore("resume", path)
    played = "eval/return" in shipped.expect
    held_out = run.result.get("evaluation", {})
    if played and (held_out.get("checkpoint"), held_out.get("episodes")) != ("last", EPISODES):
        rlcore("eval", path, "--checkpoint", "last", "--episodes", EPISODES)


def can_run(name: str) -> bool:
    """Whether what a config starts from exists, if it needs that: the run of another one, or recorded episodes."""
    loaded = config.load(name).config
    begins_with = getattr(loaded.agent.settings, "policy", None)
    if loaded.env.name == "offline" and not is_dataset(str(loaded.env.settings.dataset)):
        return False
    return begins_with is None or Path(begins_with).is_dir()


def rlcore(*words: Any) -> None:
    """Runs a command; its output is shown if it fails."""
    done = subprocess.run([sys.executable, "-m", "rlcore", *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"rlcore {' '.join(map(str, words))}\n{done.stdout}{done.stderr}")


def gathered(name: str, seeds: list[int]) -> dict[str, Any]:
    """The results of a config's runs, as they are saved."""
    kept = {}
    for seed in seeds:
        run = Run(RUNS / name / f"seed{seed}")
        figures, result = {}, run.result
        for figure in config.load(name).config.expect:
            held_out = result.get("evaluation", {}) if figure == "eval/return" else {}
            figures[figure] = held_out.get("return", result["figures"].get(figure))
        kept[seed] = {key: result[key] for key in ("steps", "seconds")} | {"figures": figures, "curve": curve(run.path)}
    return {"made_with": result["made_with"], "seeds": kept}


def curve(run: Path) -> list[tuple[int, float]]:
    """Steps and mean returns of a run's evaluations."""
    events = EventAccumulator(str(run)).Reload()
    if "eval/return" not in events.Tags()["scalars"]:
        return []
    return [(event.step, round(event.value, 2)) for event in events.Scalars("eval/return")]


def load() -> dict[str, Any]:
    """All results, by config."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}


def runs(result: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of each run."""
    return list(result["seeds"].values())


def median(result: dict[str, Any], key: str) -> float:
    """Over the seeds; a mean would be distorted by a paused run, whose seconds include the pause."""
    return float(np.median([seed[key] for seed in runs(result)]))


def published(claim: config.Expectation) -> dict[str, float]:
    """The figures in the claim's source, by the text around each: "Tianshou: 5,784 (v3); CleanRL: 1,443 (v4)"."""
    found = {part.strip(): re.search(r": ([-\d.,]*\d)", part) for part in claim.source.split(";")}
    return {source: float(match[1].replace(",", "")) for source, match in found.items() if match}


def iqm(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """The interquartile mean."""
    return trim_mean(values, 0.25, axis=axis)


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % interval of the interquartile mean, by the percentile bootstrap."""
    drawn = np.random.default_rng(1).choice(values, (9999, len(values)))
    low, high = np.percentile(iqm(drawn), [2.5, 97.5])
    return float(low), float(high)


def write_page(results: dict[str, Any]) -> None:
    """docs/results.md, docs/images/results.png, and the table in the README."""
    groups: dict[str, list[str]] = {"Reinforcement learning": [], "Self-play": [], "Supervised and generative": []}
    short = ["| config | steps | here, IQM [95 %] of five seeds | published, or to compare |", "|" + "---|" * 4]
    for name, result in results.items():
        loaded = config.load(name).config
        kind = {"gym": 0, "cartpole": 0, "envpool": 0, "selfplay": 1, "versus": 1}.get(loaded.env.name, 2)
        for figure, claim in loaded.expect.items():
            found = cells(figure, result, claim)
            groups[list(groups)[kind]].append(f"| [`{name}`](../configs/{name}.yaml) | {' | '.join(found)} |")
            if kind == 0 and len(runs(result)) >= FEW:
                short.append(f"| `{name}` | {found[0]} | {found[2]} | {claim.source} |")
    text = [(RESULTS / "introduction.md").read_text()]
    for title, lines in groups.items():
        if not lines:
            continue
        text += [f"## {title}", "", f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS), *lines, ""]
        if title == "Reinforcement learning":
            text += ["![learning curves](images/results.png)", ""]
    (DOCS / "results.md").write_text("\n".join([*text, (RESULTS / "notes.md").read_text()]))
    readme = DOCS.parent / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- by make results -->\n")
    _, end, after = rest.partition("<!-- so far -->\n")
    readme.write_text("".join([before, begin, "\n".join(short), "\n", end, after]))
    curves = {name: result for name, result in results.items() if all(len(s["curve"]) > 4 for s in runs(result))}
    if curves:
        draw(curves)


def cells(figure: str, result: dict[str, Any], claim: config.Expectation) -> list[str]:
    """The cells after the name, for one figure."""
    steps, seconds = median(result, "steps"), median(result, "seconds")
    values = np.array([seed["figures"][figure] for seed in runs(result)])
    spread = "" if len(values) < FEW else " [{}, {}]".format(*map(digits, interval(values)))
    met = "" if all(map(claim.met, values)) else ", not met"
    return [
        f"{steps:,.0f}", figure, f"**{digits(float(iqm(values)))}**{spread}",
        ", ".join(result["seeds"]), ", ".join(map(digits, values)), f"{claim}{met}", claim.source, f"{seconds:,.0f}",
        f"{steps / seconds:,.0f}",
    ]  # fmt: skip


def digits(value: float) -> str:
    """A number with four significant digits, or more before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def draw(results: dict[str, Any]) -> None:
    """Learning curves, one panel each: the interquartile mean over the seeds, their range, and published figures.

    A seed that ended sooner stays at its last value.
    """
    columns = 4
    lines = -(-len(results) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.2 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).flat
    for (name, result), axes in zip(results.items(), panels, strict=False):  # panels last: zip would drop one
        curves = [np.array(seed["curve"]).T for seed in runs(result)]
        steps = np.linspace(max(x[0] for x, _ in curves), max(x[-1] for x, _ in curves), 200)
        values = np.array([np.interp(steps, *curve) for curve in curves])
        axes.plot(steps / 1000, iqm(values, axis=0))
        axes.fill_between(steps / 1000, values.min(0), values.max(0), alpha=0.2)
        for number, (source, value) in enumerate(published(config.load(name).config.expect["eval/return"]).items(), 1):
            axes.axhline(value, color=f"C{number}", linestyle="--", linewidth=1, label=source)
            axes.legend(fontsize=6)
        axes.set_title(name, fontsize=9)
        axes.tick_params(labelsize=7)
    for axes in list(panels):
        axes.axis("off")
    figure.supxlabel("thousand environment steps", fontsize=9)
    figure.supylabel("evaluation return", fontsize=9)
    figure.savefig(DOCS / "images" / "results.png", dpi=120)


if __name__ == "__main__":
    main()

"""Where digits lie in two-dimensional codes, a panel per run: python examples/latent_space.py OUT.png RUN [RUN ...]"""

import sys

from rlcore.evaluation import evaluating
from rlcore.run import Run
from rlcore.supervised.reports import figure_of
from rlcore.supervised.reports.latent import encoded, scatter
from rlcore.supervised.reports.likelihood import autoencoding


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out, *runs = sys.argv[1:]
    figure, panels = figure_of(len(runs), 4, 4)
    for run, axes in zip(runs, panels, strict=True):
        trainer, _ = Run(run).trainer("last")
        env, agent = autoencoding(run, trainer.agent, trainer.env.evaluation(1))
        with evaluating(agent):
            scatter(axes, encoded(agent, env).mean.flatten(1), env)
        axes.set_title(f"beta = {agent.settings.beta:g}")
        if axes is not panels[-1]:
            axes.get_legend().remove()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()

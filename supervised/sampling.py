"""The command ``rlcore sample``."""

from pathlib import Path
from typing import Annotated

import matplotlib.image
import typer

from rlcore.cli import Trust
from rlcore.errors import InputError
from rlcore.evaluation import evaluating
from rlcore.run import Run
from rlcore.seeding import seed_everything
from rlcore.supervised.reports.latent import sampled, tiled
from rlcore.supervised.reports.likelihood import autoencoding


def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder.")],
    num: Annotated[int, typer.Option(min=1, max=10_000, help="How many images.")] = 64,
    out: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Default: samples.png in the run.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the codes.")] = 1,
    trust: Trust = False,
) -> None:
    """Draw images from a variational autoencoder."""
    folder = Run(run, trust)
    trainer, _ = folder.trainer(folder.default_checkpoint, ["device=cpu"])
    env, agent = autoencoding(f"sample {run}", trainer.agent, trainer.env, variational=True, images=True)
    target = out or folder.path / "samples.png"
    if not target.parent.is_dir() or target.suffix != ".png":
        raise InputError(f"sample: --out must be a .png file in a folder that exists, got {target}")
    with evaluating(agent):
        seed_everything(seed)
        images = list(sampled(agent, env, num))
    picture = tiled(images, round(num**0.5) or 1)
    grey = picture.squeeze(-1).numpy()
    try:
        matplotlib.image.imsave(target, grey, cmap="gray" if grey.ndim == 2 else None, vmin=0, vmax=1)
    except OSError as error:
        raise InputError(f"sample: cannot write {target}: {error}") from None
    print(target)
    trainer.close()

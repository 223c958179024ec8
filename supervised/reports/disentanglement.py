"""Whether each coordinate of a code stands for one visible factor: the mutual information gap."""

import torch
from pydantic import Field
from torch import Tensor

from rlcore import settings
from rlcore.agent import Agent
from rlcore.environment import Environment
from rlcore.errors import InputError
from rlcore.evaluation import Report, ReportMaker, evaluating
from rlcore.supervised.reports.latent import encoded
from rlcore.supervised.reports.likelihood import autoencoding
from rlcore.trees import tree_map


class DisentanglementReport(ReportMaker):
    """The mutual information gap between the code and what is visible: the class, and the shape of the stroke.

    For each factor v and the two coordinates z most informative about it: (I(z1; v) - I(z2; v)) / H(v), in [0, 1]; 1 if
    one coordinate determines v and no other is informative (Chen et al. 2018, "Isolating Sources of Disentanglement in
    Variational Autoencoders", equation 6). Computed from the binned means of the coordinates. The factors of an image
    are measured from it; see `image_factors`.
    """

    class Settings(settings.Settings):
        """Settings of the report."""

        bins: int = Field(default=20, ge=2, le=1000)
        """Of each coordinate, and of each factor that is a number. Estimated from n examples, mutual information is
        about (bins - 1)^2 / 2n nats too high."""

    settings: Settings

    def check(self, agent: Agent, env: Environment) -> None:
        """See `rlcore.evaluation.ReportMaker`."""
        autoencoding("report disentanglement", agent, env, images=True)

    def __call__(self, agent: Agent, env: Environment, evaluation: Report) -> Report:
        """The report; see `rlcore.evaluation.ReportMaker`.

        Returns:
            ``<factor>_gap``, ``<factor>_information`` (of the best coordinate, as a share of H(v)), and ``mean_gap``.

        Raises:
            InputError: the agent is not an autoencoder of images, or pixels are below 0.
        """
        env, agent = autoencoding("report disentanglement", agent, env, images=True)
        with evaluating(agent):
            codes = encoded(agent, env).mean.flatten(1)
            lowest = min(float(env.scaled(obs).min()) for obs in env.batches())
            if lowest < 0:
                raise InputError(f"report disentanglement: pixels must be 0 or more, the lowest is {lowest:g}")
            measured = tree_map(lambda *x: torch.cat(x), *(image_factors(env.scaled(obs)) for obs in env.batches()))
        bins = self.settings.bins
        factors = {name: quantiles(values, bins) for name, values in measured.items()}
        if env.dataset.classes is not None:
            factors = {"class": env.targets, **factors}
        factors = {name: v for name, v in factors.items() if v.min() < v.max()}  # a constant has no entropy to share
        binned = [quantiles(z, bins) for z in codes.T]
        scalars: dict[str, float] = {}
        lines = ["factor       best  second  gap"]
        for name, v in factors.items():
            shares = torch.tensor([mutual_information(z, v) for z in binned]) / mutual_information(v, v)
            first, second = torch.cat([shares, shares.new_zeros(1)]).topk(2).values.tolist()
            scalars |= {f"{name}_information": first, f"{name}_gap": first - second}
            lines.append(f"{name:10s}  z{int(shares.argmax()):<3d} {first:.2f}  {second:.2f}  {first - second:.3f}")
        scalars["mean_gap"] = sum(scalars[f"{name}_gap"] for name in factors) / len(factors)
        return Report(scalars, "\n".join([*lines, f"mean gap {scalars['mean_gap']:.3f}"]))


def image_factors(images: Tensor) -> dict[str, Tensor]:
    """The shape of strokes on a dark background, from moments, [n] each.

    ``mass``: the sum of the pixels; ``slant``: the shear that would make the stroke upright, cov(x, y) / var(y);
    ``width`` and ``height``: standard deviations of x, once upright, and of y; in pixels.

    Args:
        images: [n, C, H, W], >= 0.
    """
    grey = images.double().mean(1)
    mass = grey.sum((1, 2))
    weight = grey / mass.clamp_min(1e-9)[:, None, None]
    y, x = (torch.arange(side, dtype=torch.float64, device=images.device) for side in grey.shape[1:])

    def mean(values: Tensor) -> Tensor:
        return (weight * values).sum((1, 2))

    x, y = x - mean(x[None, None])[:, None, None], y[:, None] - mean(y[None, :, None])[:, None, None]
    var_x, var_y, cov = mean(x.square()), mean(y.square()), mean(x * y)
    slant = cov / var_y.clamp_min(1e-9)
    width = (var_x - slant * cov).clamp_min(0).sqrt()
    return {"mass": mass, "slant": slant, "width": width, "height": var_y.sqrt()}


def quantiles(values: Tensor, bins: int) -> Tensor:
    """The bins of equal mass that numbers [n] fall into, [n] int64 from 0 to bins - 1; equal numbers share a bin."""
    edges = values.double().quantile(torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=values.device)[1:-1])
    return torch.bucketize(values.double(), edges)


def mutual_information(a: Tensor, b: Tensor) -> float:
    """I(a; b) of two columns of labels [n] int64, from their joint frequencies, nats; I(a; a) is the entropy."""
    from sklearn.metrics import mutual_info_score

    return float(mutual_info_score(a.numpy(force=True), b.numpy(force=True)))

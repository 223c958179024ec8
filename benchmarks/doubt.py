"""The tables of docs/uncertainty.md: python benchmarks/doubt.py FOLDER

FOLDER holds runs as ``make uncertainty`` leaves them: five seeds of each of the configs ``mnist_lenet_dropout`` and
``mnist_lenet_ensemble``, and in ``mnist_lenet_dropout-8`` and ``mnist_lenet_ensemble-8`` those trained on 0 to 7 only.
Prints means over the seeds and, after +-, 95 % confidence intervals of the mean (Student's t).
"""

import json
import sys
from pathlib import Path

import torch
from scipy.stats import t

COLUMNS = {
    "softmax, LeNet": ("mnist_lenet_ensemble", "softmax"),
    "softmax, with dropout": ("mnist_lenet_dropout", "softmax"),
    "MC dropout": ("mnist_lenet_dropout", "mc_dropout"),
    "ensemble of 5": ("mnist_lenet_ensemble", "ensemble"),
}
MEASURES = {
    "accuracy": "accuracy",
    "negative log-likelihood, nats": "negative_log_likelihood",
    "Brier score": "brier_score",
    "calibration error": "calibration_error",
    "calibration error, bins of equal mass": "calibration_error_mass",
    "temperature": "temperature",
    "calibration error, tempered": "tempered_calibration_error",
    "negative log-likelihood, tempered": "tempered_negative_log_likelihood",
    "area under risk and coverage, x 1000": "risk_coverage_area",
    "accuracy at 95 % coverage": "accuracy_at_95",
    "accuracy at 90 % coverage": "accuracy_at_90",
    "ROC area of wrong answers": "error_roc_area",
}
KINDS = {
    "8 and 9, trained on 0 to 7": "classes",
    "rotated by 90 degrees": "rotated",
    "pixels shuffled": "shuffled",
    "normal noise": "noise",
    "scikit-learn's digits": "digits",
}


def figure(folder: Path, name: str) -> str:
    """Mean and interval of a figure over the runs in a folder."""
    paths = sorted(folder.glob("*/result.json"))
    values = [json.loads(path.read_text())["figures"].get(f"uncertainty/{name}") for path in paths]
    if not values or None in values:
        return "-"
    x = torch.tensor(values, dtype=torch.float64)
    if name.endswith("risk_coverage_area"):
        x *= 1000
    half = float(t.ppf(0.975, len(x) - 1)) * x.std() / len(x) ** 0.5 if len(x) > 1 else torch.tensor(float("nan"))
    return f"{x.mean():.4f} +- {half:.4f}"


def main(root: Path) -> None:
    print(f"| test split | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for label, measure in MEASURES.items():
        cells = [figure(root / config, f"{method}_{measure}") for config, method in COLUMNS.values()]
        print(f"| {label} | {' | '.join(cells)} |")
    print(f"\n| ROC area, out-of-distribution or not | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for label, kind in KINDS.items():
        of = "-8" if kind == "classes" else ""
        for doubt, key in (("entropy", "roc_area"), ("mutual information", "mutual_information_roc_area")):
            cells = [figure(root / f"{config}{of}", f"{method}_{kind}_{key}") for config, method in COLUMNS.values()]
            print(f"| {label}, by {doubt} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

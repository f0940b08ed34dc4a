"""Figures of quality: how sure a share is, what is mistaken for what, and how far two sets of features are apart."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Z = 1.959963985  # of a normal's middle 95 %


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of the share `hits / trials` (Wilson, 1927). It holds near 0 and 1 too, and for few trials."""
    if not trials:
        return 0.0, 1.0
    share, spread = hits / trials, Z * Z / trials
    middle = (share + spread / 2) / (1 + spread)
    reach = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def frechet_distance(first: Floats, second: Floats) -> float:
    """The distance of the Gaussians that fit two sets of features of (rows, width) (Dowson and Landau, 1982).

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). Compare it only between sets of as many rows: few rows make it large.
    """
    means = [np.asarray(features, np.float64).mean(axis=0) for features in (first, second)]
    covariances = [np.cov(np.asarray(features, np.float64), rowvar=False) for features in (first, second)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ covariances[1] @ root), 0)).sum()  # tr (C1 C2)^(1/2)
    apart = np.square(means[0] - means[1]).sum()
    return float(max(0.0, apart + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * shared))


def recognition(probabilities: Floats, asked: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Count the rows whose most probable class is the one that was asked for, in all and by class.

    `probabilities` are (rows, classes). The most frequent confusions come with it.
    """
    heard = [classes[i] for i in probabilities.argmax(axis=1)]
    hits = Counter(a for a, h in zip(asked, heard, strict=True) if a == h)
    trials = Counter(asked)
    wrong = Counter((a, h) for a, h in zip(asked, heard, strict=True) if a != h)
    confusions = [{"asked": a, "heard": h, "share": n / trials[a]} for (a, h), n in wrong.items()]
    return {
        "rate": hits.total() / len(heard),
        "interval": wilson(hits.total(), len(heard)),
        "by_class": {name: hits[name] / trials[name] for name in trials},
        "confusions": sorted(confusions, key=lambda row: -row["share"])[:10],
    }


def percent(share: float) -> str:
    """A share as text, in percent with one decimal."""
    return f"{100 * share:.1f} %"


def confusions_line(found: dict[str, Any], most: int = 5) -> str:
    """The worst confusions of a `recognition`, in one line."""
    rows = [f"{row['asked']} for {row['heard']} {percent(row['share'])}" for row in found["confusions"][:most]]
    return ", ".join(rows) or "nothing else"

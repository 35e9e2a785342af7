"""DeLong's covariance of areas under the ROC curve (AUC), for images clustered in lesions.

An AUC is the proportion of pairs (an image of the class, an image of another class) in which the
first has the larger score; ties count half. The placement of an image is the proportion of its own
pairs that it wins. DeLong's covariance of several AUCs is the covariance of their placements
(DeLong et al., Biometrics 44, 1988), computed from mid-ranks (Sun and Xu, IEEE Signal Processing
Letters 21, 2014). Images of one lesion are not independent, so placements are first summed over
each lesion (Obuchowski, Biometrics 53, 1997). With one image per lesion that changes nothing.

The influence of a weighted mean of AUCs is the same weighted mean of their influences.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from ham10000.data import CLASSES

__all__ = ["AucDifference", "auc_covariance", "auc_influence", "compare_aucs"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AucDifference:
    """Difference of two AUCs, B minus A, with DeLong's standard error; NaN if undefined.

    The interval is clipped to [-1, 1].
    """

    a: float
    b: float
    difference: float
    standard_error: float
    low: float
    high: float
    p_value: float
    """Two-sided p-value of the hypothesis of no difference, from the normal distribution."""
    undefined: str | None
    """Reason why the AUC or its standard error is undefined; `None` if both are defined."""


def auc_influence(
    is_positive: npt.ArrayLike, scores: npt.ArrayLike, lesions: npt.ArrayLike
) -> tuple[float, Floats]:
    """Return the AUC of one class, and the influence of each lesion on it.

    Example:
        >>> from ham10000.statistics.delong import auc_influence
        >>> auc, influence = auc_influence([1, 1, 0, 0], [0.9, 0.4, 0.6, 0.1], [0, 1, 2, 3])
        >>> auc, (influence @ influence).round(3).item()
        (0.75, 0.125)

    Args:
        is_positive: (N,), whether each image belongs to the class. Both values occur.
        scores: (N,), the score of the class.
        lesions: (N,), lesion index of each image, from 0. A lesion has one class.

    Returns:
        The AUC, and the influences, (L,). The sum of squared influences is the variance of the
        AUC; the sum of products with the influences of another model or class is the covariance.
    """
    own = np.asarray(is_positive, dtype=bool)
    score = np.asarray(scores, dtype=np.float64)
    lesion = np.asarray(lesions, dtype=np.int64)
    placements = np.empty(len(own))
    for group in (own, ~own):
        placements[group] = rankdata(score)[group] - rankdata(score[group])
    placements[own] /= (~own).sum()
    placements[~own] = 1 - placements[~own] / own.sum()
    auc = float(placements[own].mean())
    influence = np.zeros(int(lesion.max()) + 1)
    for group in (own, ~own):
        count = len(np.unique(lesion[group]))
        share = (placements[group] - auc) / group.sum()
        # The variance of a single lesion is undefined.
        factor = np.sqrt(count / (count - 1)) if count > 1 else np.nan
        np.add.at(influence, lesion[group], share * factor)
    return auc, influence


def auc_covariance(
    targets: npt.ArrayLike,
    models: list[Floats],
    lesions: npt.ArrayLike,
    classes: Sequence[str] = CLASSES,
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return the AUCs of several models on the same images, with their covariance matrices.

    Args:
        targets: (N,), indices into `classes`.
        models: Probabilities of each of M models, (N, C).
        lesions: (N,), lesion index of each image, from 0.
        classes: Names of the C classes.

    Returns:
        The AUCs, (M,), and covariances, (M, M), for auc_macro, auc_weighted, and the AUC of each
        class (auc/nv, ...); NaN if undefined. Averages are over the classes that have images.
    """
    truth = np.asarray(targets, dtype=np.int64)
    lesion = np.asarray(lesions, dtype=np.int64)
    support = np.bincount(truth, minlength=len(classes))
    values = np.full((len(models), len(classes)), np.nan)
    influence = np.full((len(models), len(classes), int(lesion.max()) + 1), np.nan)
    there = np.flatnonzero((support > 0) & (support < len(truth)))
    for label in there:
        for model, scores in enumerate(models):
            values[model, label], influence[model, label] = auc_influence(
                truth == label, scores[:, label], lesion
            )
    shares = {
        "auc_macro": np.where(np.isin(np.arange(len(classes)), there), 1.0, 0.0),
        "auc_weighted": support.astype(np.float64),
        **{f"auc/{name}": row for name, row in zip(classes, np.eye(len(classes)), strict=True)},
    }
    aucs, covariances = {}, {}
    for name, share in shares.items():
        used = np.flatnonzero(share)
        weights = share[used] / share[used].sum()
        aucs[name] = values[:, used] @ weights
        summed = np.einsum("mcl,c->ml", influence[:, used], weights)
        if not len(used):
            aucs[name], summed = np.full(len(models), np.nan), np.full_like(summed, np.nan)
        covariances[name] = summed @ summed.T
    return aucs, covariances


def compare_aucs(
    targets: npt.ArrayLike,
    a: Floats,
    b: Floats,
    lesions: npt.ArrayLike,
    level: float = 0.95,
    classes: Sequence[str] = CLASSES,
) -> dict[str, AucDifference]:
    """Compare the AUCs of two models on the same images.

    Args:
        targets: (N,), indices into `classes`.
        a: (N, C), probabilities of the first model.
        b: (N, C), probabilities of the second model.
        lesions: (N,), lesion index of each image, from 0.
        level: Nominal coverage of the intervals.
        classes: Names of the C classes.

    Returns:
        The difference for auc_macro, auc_weighted, and the AUC of each class (auc/nv, ...).
    """
    aucs, covariances = auc_covariance(targets, [a, b], lesions, classes)
    reasons = _reasons(np.asarray(targets), np.asarray(lesions), classes)
    critical = float(norm.ppf((1 + level) / 2))
    found = {}
    for name, (first, second) in aucs.items():
        covariance = covariances[name]
        error = float(
            np.sqrt(np.maximum(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1], 0.0))
        )
        difference = float(second - first)
        # Two models with the same ranking have a difference of 0 without error.
        p_value = 2 * float(norm.sf(abs(difference) / error)) if error > 0 else 1.0
        low, high = np.clip(difference + np.array([-critical, critical]) * error, -1, 1).tolist()
        known = bool(np.isfinite(difference) and np.isfinite(error))
        found[name] = AucDifference(
            a=float(first),
            b=float(second),
            difference=difference,
            standard_error=error,
            low=low,
            high=high,
            p_value=p_value if known else np.nan,
            undefined=None if known else reasons.get(name, reasons["auc_macro"]),
        )
    return found


def _reasons(truth: Ints, lesion: Ints, classes: Sequence[str]) -> dict[str, str]:
    # Reasons for undefined AUCs. Defined ones get an entry too, which the caller ignores.
    lesions = {name: len(np.unique(lesion[truth == k])) for k, name in enumerate(classes)}
    whole = sum(lesions.values())
    found, single = {}, []
    for name, count in lesions.items():
        if count == 0:
            found[f"auc/{name}"] = f"no image is {name}"
        elif count == whole:
            found[f"auc/{name}"] = f"all images are {name}"
        else:
            found[f"auc/{name}"] = f"{name if count == 1 else 'the rest'} has one lesion"
            single += [name] if count == 1 else []
    alone = f"{' and '.join(single)} {'have' if len(single) > 1 else 'has'} one lesion"
    return {**found, "auc_macro": alone if single else "all images are of one class"}

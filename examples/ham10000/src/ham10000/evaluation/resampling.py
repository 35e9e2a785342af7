"""Draws of lesions with replacement: the test sets that might have been.

Lesions are drawn, not images, since the images of one lesion are nearly the same: a model that
is right about one is right about the others. Each class keeps its number of lesions, as in the test
sets, which are stratified.
"""

import numpy as np
import numpy.typing as npt

from ham10000.errors import ArgumentError

__all__ = ["RESAMPLES", "draw_lesions"]

RESAMPLES = 2000
"""How many draws give an interval: other draws would move its ends by some 1.5 % of its width."""


def draw_lesions(
    targets: npt.ArrayLike, lesions: npt.ArrayLike, resamples: int = RESAMPLES, seed: int = 0
) -> npt.NDArray[np.float64]:
    """Draw lesions with replacement, within each class, and count the images that come along.

    Example:
        >>> from ham10000.evaluation.resampling import draw_lesions
        >>> counts = draw_lesions([4, 4, 5, 5], [0, 0, 1, 2], resamples=3)
        >>> counts.shape, counts.sum(axis=0).tolist()
        ((4, 3), [4.0, 4.0, 4.0])

    Args:
        targets: (N,), the class of each image.
        lesions: (N,), which lesion each image shows, numbered from 0; a lesion has one class.
        resamples: how many draws.
        seed: of the draws: the same seed and images give the same draws, for any model.

    Returns:
        (N, R), how often each image counts in each draw.

    Raises:
        ArgumentError: there is no draw to make.
    """
    if resamples < 1:
        raise ArgumentError(f"drawing lesions: {resamples} resamples. Expected at least 1.")
    truth, lesion = np.asarray(targets), np.asarray(lesions)
    names, first = np.unique(lesion, return_index=True)
    classes = truth[first]
    counts = np.zeros((len(names), resamples))
    rng = np.random.default_rng(seed)
    draws = np.arange(resamples)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        for chosen in rng.choice(members, (len(members), resamples)):
            counts[chosen, draws] += 1
    return np.asarray(counts[np.searchsorted(names, lesion)])

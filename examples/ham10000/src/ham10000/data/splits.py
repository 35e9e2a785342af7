"""Splits by lesion, by protocol."""

import logging
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from ham10000.data.constants import DX_TYPES, PUBLISHED_SPLIT
from ham10000.data.duplicates import lesion_groups
from ham10000.data.metadata import encode_metadata
from ham10000.data.split_file import check_split
from ham10000.errors import ArgumentError, SplitError

__all__ = [
    "TEST_SHARE",
    "SplitProtocol",
    "kfold_split",
    "lesion_split",
    "paper_split",
    "paper_val_split",
    "published_split",
    "split_by_protocol",
]

_LOG = logging.getLogger(__name__)

SplitProtocol = Literal["lesion", "kfold", "paper", "paper_val", "published", "honest"]
"""Names of the protocols. `honest` is the former name of `paper_val`."""

TEST_SHARE = 0.15
"""Share of the lesions with one image that the authors test on. They also report 0.2 and 0.3."""

_LESION_SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def split_by_protocol(
    table: pd.DataFrame,
    protocol: SplitProtocol,
    seed: int,
    pairs: pd.DataFrame | None = None,
    *,
    folds: int = 5,
    validation: bool = False,
    test_share: float = TEST_SHARE,
) -> pd.DataFrame:
    """Split by the protocol of this name: see the function of each.

    Example:
        >>> from ham10000.data import split_by_protocol, synthetic_table
        >>> split = split_by_protocol(synthetic_table(images=900, seed=0), "lesion", seed=42)
        >>> sorted(set(split["split"]))
        ['test', 'train', 'val']

    Args:
        table: As `read_table` returns it.
        protocol: lesion, kfold, paper, paper_val or published; `honest` is paper_val, with a
            warning.
        seed: Seed of all draws; published has none.
        pairs: Detected duplicates, from `find_pairs`. paper and published ignore them.
        folds: Number of folds of kfold.
        validation: Whether kfold has a validation fold.
        test_share: Share of the test set of paper and paper_val.

    Returns:
        A table like that of `lesion_split`; with kfold like that of `kfold_split`.

    Raises:
        ArgumentError: An argument is out of range.
        SplitError: A class has too few lesions.
    """
    if protocol == "honest":
        _LOG.warning("The split protocol honest is now called paper_val; use this name")
    if protocol == "lesion":
        return lesion_split(table, seed, pairs)
    if protocol == "kfold":
        return kfold_split(table, seed, folds, pairs, validation=validation)
    if protocol == "paper":
        return paper_split(table, seed, test_share)
    if protocol == "published":
        return published_split(table)
    return paper_val_split(table, seed, pairs, test_share=test_share)


def lesion_split(table: pd.DataFrame, seed: int, pairs: pd.DataFrame | None = None) -> pd.DataFrame:
    """Split all lesions: 20 % of the images for the test, 10 % for validation.

    Lesions that known or detected duplicates connect are in one split. Each stratum has the same
    share in every split, up to a few images: the strata are the combinations of diagnosis, one or
    several images of the lesion, and diagnosis by follow-up or not.

    Example:
        >>> from ham10000.data import lesion_split, synthetic_table
        >>> split = lesion_split(synthetic_table(images=900, seed=0), seed=42)
        >>> split["split"].value_counts(normalize=True).round(2).to_dict()
        {'train': 0.7, 'test': 0.2, 'val': 0.1}

    Args:
        table: As `read_table` returns it.
        seed: Seed of the draw.
        pairs: Duplicates besides the known ones, from `find_pairs`.

    Returns:
        One row per image with image_id, lesion_id, dx and split, in the order of the table.

    Raises:
        SplitError: A class has fewer than three lesions.
    """
    doing = "splitting by lesion"
    sides = _allocate(table, pairs, list(_LESION_SHARES.values()), seed, doing)
    split = _as_split(table, np.array(list(_LESION_SHARES))[sides])
    check_split(split, table, doing)
    return split


def kfold_split(
    table: pd.DataFrame,
    seed: int,
    folds: int = 5,
    pairs: pd.DataFrame | None = None,
    *,
    validation: bool = False,
) -> pd.DataFrame:
    """Split into folds, each of which is the test set once.

    Folds have the groups and strata of `lesion_split`.

    Example:
        >>> from ham10000.data import kfold_split, synthetic_table
        >>> split = kfold_split(synthetic_table(images=900, seed=0), seed=42, folds=3)
        >>> split[split["split"] == "test"]["image_id"].is_unique, len(split)
        (True, 2700)

    Args:
        table: As `read_table` returns it.
        seed: Seed of the draw.
        folds: Number of folds, at least 2, and with a validation fold at least 3.
        pairs: Duplicates besides the known ones, from `find_pairs`.
        validation: Whether the fold after the test fold is the validation set, and not part of
            the training set.

    Returns:
        A table like that of `lesion_split` with a column fold. The rows of each fold are a split.

    Raises:
        ArgumentError: Too few folds.
        SplitError: A class has fewer lesions than there are folds.
    """
    doing = f"splitting into {folds} folds"
    least = 3 if validation else 2
    if folds < least:
        raise ArgumentError(
            f"{doing}: one fold tests, {'one validates, ' * validation}and the others train. Pass "
            f"at least {least} folds."
        )
    sides = _allocate(table, pairs, [1 / folds] * folds, seed, doing)
    parts = []
    for fold in range(folds):
        splits = np.where(sides == fold, "test", "train").astype("<U5")
        if validation:
            splits[sides == (fold + 1) % folds] = "val"
        parts.append(_as_split(table, splits).assign(fold=fold))
    split = pd.concat(parts, ignore_index=True)
    check_split(split, table, doing)
    return split


def paper_split(table: pd.DataFrame, seed: int, test_share: float = TEST_SHARE) -> pd.DataFrame:
    """Split as the authors do: test on 15 % of the lesions that have one image.

    The authors draw without a seed and validate on the test set. Here the draw has a seed, and
    there is no validation set, since the authors have none.

    Example:
        >>> from ham10000.data import paper_split, synthetic_table
        >>> split = paper_split(synthetic_table(images=600, seed=0), seed=42)
        >>> sorted(set(split["split"]))
        ['test', 'train']

    Args:
        table: As `read_table` returns it. The draw depends on the order of its rows.
        seed: Seed of the draw.
        test_share: Share of these lesions in the test set; the paper has 0.15, 0.2 and 0.3.

    Returns:
        A table like that of `lesion_split`.

    Raises:
        ArgumentError: The share is out of range.
        SplitError: A class has too few lesions with one image.
    """
    drawn = _draw_test(table, seed, test_share)
    split = _as_split(table, np.where(drawn, "test", "train"))
    check_split(split, table, "splitting by the rule of the paper")
    return split


def paper_val_split(
    table: pd.DataFrame,
    seed: int,
    pairs: pd.DataFrame | None = None,
    val_share: float = 0.1,
    test_share: float = TEST_SHARE,
) -> pd.DataFrame:
    """Split into training, validation and test sets that share no lesion and no given pair.

    The test set is that of `paper_split` for the same seed, so that results are comparable, without
    the images that have a duplicate outside it: their whole groups are used for training. The
    validation set is drawn from the rest, stratified by diagnosis. Known duplicates that are not
    in `pairs` may be in two splits.

    Example:
        >>> from ham10000.data import paper_val_split, synthetic_table
        >>> split = paper_val_split(synthetic_table(images=900, seed=0), seed=42)
        >>> sorted(set(split["split"]))
        ['test', 'train', 'val']

    Args:
        table: As `read_table` returns it.
        seed: Seed of all draws.
        pairs: Duplicates, from `find_pairs`.
        val_share: Share of the validation set in the images outside the test set, at most 0.5.
        test_share: As in `paper_split`.

    Returns:
        A table like that of `lesion_split`.

    Raises:
        ArgumentError: A share is out of range.
        SplitError: A class has too few lesions.
    """
    doing = "splitting by the rule of the paper, with a validation set"
    if not 0 < val_share <= 0.5:
        raise ArgumentError(
            f"{doing}: val_share must be above 0 and at most 0.5, found {val_share}."
        )
    groups = lesion_groups(table, pairs, known=False)
    drawn = _draw_test(table, seed, test_share)
    size = np.bincount(groups)
    inside = np.bincount(groups[drawn], minlength=len(size))
    splits = np.where((inside == size)[groups], "test", "train").astype("<U5")
    rest = np.flatnonzero(splits == "train")
    splits[_draw_val(table, groups, rest, seed, val_share)] = "val"
    split = _as_split(table, splits)
    check_split(split, table, doing)
    return split


def published_split(table: pd.DataFrame) -> pd.DataFrame:
    """Split as the data set itself says.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import published_split
        >>> table = pd.DataFrame({"image_id": ["a", "b"], "lesion_id": ["x", "y"], "dx": "nv"})
        >>> published_split(table.assign(published_split=["train", "test"]))["split"].tolist()
        ['train', 'test']

    Args:
        table: The table of a data set with a published split.

    Returns:
        A table like that of `lesion_split`.

    Raises:
        SplitError: The data set has no published split, or a lesion is in two of its parts, or a
            class is missing from one.
    """
    doing = "splitting as published"
    if PUBLISHED_SPLIT not in table:
        raise SplitError(f"{doing}: the data set has no published split. Use the protocol lesion.")
    split = _as_split(table, table[PUBLISHED_SPLIT].to_numpy(dtype=str))
    check_split(split, table, doing)
    return split


def _allocate(
    table: pd.DataFrame,
    pairs: pd.DataFrame | None,
    shares: list[float],
    seed: int,
    doing: str,
) -> NDArray[np.int64]:
    """Assign each image to a side, so that each side has its share of every stratum."""
    follow_up = encode_metadata(table, ["dx_type"])["dx_type"] == 1 + DX_TYPES.index("follow_up")
    several = table.groupby("lesion_id")["image_id"].transform("size") > 1
    numbers = lesion_groups(table, pairs)
    images = pd.DataFrame(
        {"dx": table["dx"], "several": several, "follow_up": follow_up.numpy(), "size": 1}
    )
    groups = images.groupby(numbers).agg(
        {"dx": "first", "several": "max", "follow_up": "max", "size": "sum"}
    )
    rng = np.random.default_rng(seed)
    groups = groups.iloc[rng.permutation(len(groups))]
    side_of = np.zeros(len(groups), dtype=np.int64)
    for dx, of_dx in groups.groupby("dx"):
        if len(of_dx) < len(shares):
            raise SplitError(
                f"{doing}: {dx} has {len(of_dx)} lesions, fewer than the {len(shares)} parts that "
                "each need one. Use more images or fewer folds."
            )
        # The first groups go to one side each, so that every side has the class. The others come
        # by stratum, the largest first, and each goes to the side that lacks the most images.
        least = of_dx.iloc[: len(shares)]
        rest = of_dx.iloc[len(shares) :].sort_values(
            ["several", "follow_up", "size"], ascending=[False, True, False], kind="stable"
        )
        members = pd.concat([least, rest])
        order = rng.permutation(len(shares))  # of equal sides, the first in this order is chosen
        lacking = np.zeros(len(shares))
        for position, size in enumerate(members["size"]):
            lacking += np.array(shares)[order] * size
            chosen = position if position < len(shares) else int(lacking.argmax())
            lacking[chosen] -= size
            side_of[members.index[position]] = order[chosen]
    return side_of[numbers]


def _draw_test(table: pd.DataFrame, seed: int, share: float) -> NDArray[np.bool_]:
    doing = "drawing the test set"
    if not 0 < share <= 0.5:
        raise ArgumentError(f"{doing}: test_share must be above 0 and at most 0.5, found {share}.")
    # This form repeats the authors' draw exactly: the images of lesions with one image, in the
    # order of the table, stratified by dx.
    sizes = table.groupby("lesion_id")["image_id"].transform("size")
    single = table[sizes == 1]
    counts = single["dx"].value_counts()
    few = [name for name in sorted(set(table["dx"])) if counts.get(name, 0) < 2]
    if few or len(single) * share < table["dx"].nunique():
        raise SplitError(
            f"{doing}: {', '.join(few) or 'some class'} has too few lesions with one "
            f"image for {share:.0%} of them to contain every class ({len(single)} in all). "
            "Use more images, or the protocol lesion or kfold."
        )
    _, test = train_test_split(single, test_size=share, stratify=single["dx"], random_state=seed)
    drawn: NDArray[np.bool_] = table["image_id"].isin(test["image_id"]).to_numpy()
    return drawn


def _draw_val(
    table: pd.DataFrame,
    groups: NDArray[np.int64],
    rows: NDArray[np.int64],
    seed: int,
    share: float,
) -> NDArray[np.int64]:
    # Groups are drawn, not images. A group has the class of its first image.
    chosen = pd.DataFrame({"group": groups[rows], "dx": table["dx"].to_numpy()[rows]})
    firsts = chosen.drop_duplicates("group")
    counts = firsts["dx"].value_counts()
    if counts.min() < 2 or len(firsts) * share < len(counts):
        raise SplitError(
            f"drawing the validation set: {counts.index[-1]} has {counts.min()} lesions left, and "
            f"{share:.0%} of {len(firsts)} must contain every class. Use more images."
        )
    _, val = train_test_split(
        firsts["group"], test_size=share, stratify=firsts["dx"], random_state=seed
    )
    return rows[np.isin(groups[rows], val.to_numpy())]


def _as_split(table: pd.DataFrame, splits: NDArray[np.str_]) -> pd.DataFrame:
    return table[["image_id", "lesion_id", "dx"]].reset_index(drop=True).assign(split=splits)

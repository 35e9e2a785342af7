"""Duplicate images with different lesion ids, and the groups of images that they connect.

HAM10000 contains such duplicates, and a split by lesion id alone can put them in different splits.
Known duplicates are the 18 pairs that Abhishek et al. confirmed (Sci. Data 12, 2025,
doi:10.1038/s41597-025-04382-5); they are in known_duplicates.csv. Others are detected in the
images: the same photograph, possibly cropped, scaled, rotated or with other colours, and other
photographs of the same lesion.

Detection follows the usual order of image retrieval. Each image is described by ORB features
(Rublee et al., ICCV 2011). VLAD (Jegou et al., CVPR 2010) sums them up in one vector per image. The
nearest neighbours of an image by this vector are candidates. A candidate counts as a duplicate if a
similarity transformation, estimated by RANSAC, maps features of one image to matching features of
the other in at least `MIN_PLACES` places.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.cluster import MiniBatchKMeans
from sklearn.decomposition import PCA
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ham10000.data.folder import Folder
from ham10000.data.images import read_image
from ham10000.data.metadata import read_csv
from ham10000.errors import DataError
from ham10000.utils import in_order, write_text

__all__ = [
    "MIN_PLACES",
    "Features",
    "Fingerprint",
    "count_places",
    "describe",
    "find_pairs",
    "fingerprint",
    "known_pairs",
    "lesion_groups",
    "read_pairs",
    "scan_pairs",
    "write_pairs",
]

SIDE = 200
"""Longer side of the images in which features are detected, in pixels."""

MIN_PLACES = 15
"""Smallest number of matching places of a duplicate. Candidates in HAM10000 that clearly show
different lesions match at no more than 13 places, random pairs of one class at no more than 9. The
threshold was chosen from these, not from the known duplicates."""

NUM_NEIGHBOURS = 5
"""Number of nearest neighbours of each image that are candidates."""

_FEATURES, _DIMENSIONS, _WORDS = 300, 32, 64
# Number of features that PCA and k-means are fitted to.
_SAMPLE = 20_000
# In pixels of the reduced image: error of a matching feature, side of a place.
_TOLERANCE, _PLACE = 3.0, 8
# Number of candidates per thread task.
_AT_ONCE = 256

Floats = NDArray[np.float32]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class Fingerprint:
    """ORB features of an image."""

    points: Floats
    """Positions in the image reduced to `SIDE`: (N, 2)."""
    descriptors: NDArray[np.uint8]
    """256 bits each: (N, 32)."""


def fingerprint(image: Tensor) -> Fingerprint:
    """Detect the features of an RGB image.

    Example:
        >>> import torch
        >>> from ham10000.data.duplicates import fingerprint
        >>> image = torch.randint(256, (3, 150, 200), generator=torch.manual_seed(0))
        >>> fingerprint(image.to(torch.uint8)).points.shape
        (300, 2)

    Args:
        image: (3, H, W), uint8.
    """
    grey = F.rgb_to_grayscale(image)
    scale = SIDE / max(grey.shape[1:])
    size = [max(1, round(side * scale)) for side in grey.shape[1:]]
    small = F.resize(grey, size, antialias=True)[0].numpy()
    # Dermatoscopic images are smooth, so the contrast threshold is low. With patches of 15 pixels,
    # features close to the border are found too.
    orb = cv2.ORB.create(_FEATURES, nlevels=6, edgeThreshold=15, patchSize=15, fastThreshold=5)
    found, descriptors = orb.detectAndCompute(small, None)
    if not found:
        return Fingerprint(np.zeros((0, 2), np.float32), np.zeros((0, 32), np.uint8))
    points = np.array([each.pt for each in found], np.float32)
    return Fingerprint(points, descriptors.astype(np.uint8))


@dataclass(frozen=True)
class Features:
    """Features of an image, for matching."""

    points: Floats
    """(N, 2), as in `Fingerprint`."""
    vectors: Floats
    """Descriptors as unit vectors: (N, 32)."""


def describe(prints: Sequence[Fingerprint]) -> list[Features]:
    """Reduce the descriptors of all images to 32 numbers, by PCA with whitening.

    Args:
        prints: Fingerprints of all images. The principal components are fitted to them.

    Returns:
        The features of each image; empty if all images together have too few for the fit.
    """
    descriptors = np.concatenate([each.descriptors for each in prints])
    if len(descriptors) <= _WORDS:
        nothing = Features(np.zeros((0, 2), np.float32), np.zeros((0, _DIMENSIONS), np.float32))
        return [nothing] * len(prints)
    pca = PCA(_DIMENSIONS, whiten=True, svd_solver="full").fit(_bits(_sample(descriptors)))

    def job(each: Fingerprint) -> Features:
        if not len(each.points):
            return Features(each.points, np.zeros((0, _DIMENSIONS), np.float32))
        return Features(each.points, _unit(pca.transform(_bits(each.descriptors))))

    return list(in_order(job, prints, "Describing the images"))


def count_places(first: Features, second: Features) -> int:
    """Count the places at which two images match, up to a similarity transformation.

    Two features match if each is the most similar one to the other. The matches that agree with the
    transformation found by RANSAC are counted once per square of 8 x 8 pixels, in the image with
    fewer such squares: neighbouring features of a small lesion are not independent evidence.

    Args:
        first: Features of an image, from `describe`.
        second: Features of another image, described together with those of the first.
    """
    if min(len(first.points), len(second.points)) < MIN_PLACES:
        return 0
    similarity = first.vectors @ second.vectors.T
    best = similarity.argmax(1)
    mutual = np.flatnonzero(similarity.argmax(0)[best] == np.arange(len(best)))
    if len(mutual) < MIN_PLACES:
        return 0
    here, there = first.points[mutual], second.points[best[mutual]]
    model, agree = cv2.estimateAffinePartial2D(
        here, there, ransacReprojThreshold=_TOLERANCE, maxIters=500, refineIters=0
    )
    if model is None:
        return 0
    inside = agree[:, 0] > 0
    return min(len(np.unique(each[inside] // _PLACE, axis=0)) for each in (here, there))


COLUMNS = ("image_id", "other_image_id", "lesion_id", "other_lesion_id", "places")

_KNOWN_PAIRS_FILE = Path(__file__).with_name("known_duplicates.csv")


def known_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """Return the known duplicates whose two images are in a table, with different lesion ids.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import known_pairs
        >>> ids = ["ISIC_0033481", "ISIC_0033421", "ISIC_0033556"]
        >>> table = pd.DataFrame({"image_id": ids, "lesion_id": ["a", "b", "c"]})
        >>> known_pairs(table)[["lesion_id", "other_lesion_id"]].to_numpy().tolist()
        [['a', 'b']]

    Args:
        table: As `read_table` returns it.

    Returns:
        One row per pair, with the first four of `COLUMNS`, and the similarity that Abhishek et al.
        give.
    """
    known = pd.read_csv(_KNOWN_PAIRS_FILE, comment="#")
    lesions = table.set_index("image_id")["lesion_id"]
    known = known[known["image_a"].isin(lesions.index) & known["image_b"].isin(lesions.index)]
    pairs = pd.DataFrame(
        {
            "image_id": known["image_a"].to_numpy(),
            "other_image_id": known["image_b"].to_numpy(),
            "lesion_id": lesions.reindex(known["image_a"]).to_numpy(),
            "other_lesion_id": lesions.reindex(known["image_b"]).to_numpy(),
            "similarity": known["similarity"].to_numpy(),
        }
    )
    return pairs[pairs["lesion_id"] != pairs["other_lesion_id"]].reset_index(drop=True)


def scan_pairs(folder: Folder) -> pd.DataFrame:
    """Read all images of a data set and find duplicates among them: see `find_pairs`."""

    def job(path: Path) -> Fingerprint:
        return fingerprint(read_image(path))

    prints = list(in_order(job, folder.paths(), "Searching for duplicates"))
    return find_pairs(folder.table, prints)


def find_pairs(table: pd.DataFrame, prints: Sequence[Fingerprint]) -> pd.DataFrame:
    """Find pairs of images that show the same lesion and have different lesion ids.

    Args:
        table: As `read_table` returns it.
        prints: Fingerprint of the image of each row.

    Returns:
        One row per pair, with the columns `COLUMNS`, in the order of the table. The last one is the
        number of matching places, see `count_places`.
    """
    lesions = pd.factorize(table["lesion_id"])[0].astype(np.int64)
    features = describe(prints) if prints else []
    candidates = _candidates(features, lesions)

    def job(start: int) -> list[int]:
        rows = candidates[start : start + _AT_ONCE]
        return [count_places(features[first], features[second]) for first, second in rows]

    starts = range(0, len(candidates), _AT_ONCE)
    counts = [count for some in in_order(job, starts, "Comparing candidates") for count in some]
    places = np.array(counts, dtype=np.int64)
    kept = places >= MIN_PLACES
    first, second = candidates[kept].T
    ids, names = table["image_id"].to_numpy(), table["lesion_id"].to_numpy()
    values = (ids[first], ids[second], names[first], names[second], places[kept])
    return pd.DataFrame(dict(zip(COLUMNS, values, strict=True)))


def lesion_groups(
    table: pd.DataFrame, pairs: pd.DataFrame | None = None, *, known: bool = True
) -> NDArray[np.int64]:
    """Return the group of each image. Images of a group must stay in one split.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data import lesion_groups
        >>> table = pd.DataFrame({"image_id": list("1234"), "lesion_id": ["a", "a", "b", "c"]})
        >>> pairs = pd.DataFrame({"lesion_id": ["a"], "other_lesion_id": ["c"]})
        >>> lesion_groups(table, pairs).tolist()
        [0, 0, 1, 0]

    Args:
        table: As `read_table` returns it.
        pairs: Further duplicates, from `find_pairs`.
        known: Whether known duplicates are grouped too.

    Returns:
        The group number of each row, counted from 0.

    Raises:
        DataError: A pair names a lesion that is not in the table.
    """
    codes, names = pd.factorize(table["lesion_id"])
    index = pd.Index(names)
    linked = [_link(pairs, index)] if pairs is not None and len(pairs) else []
    if known:
        linked.append(_link(known_pairs(table), index))
    first, second = np.concatenate([np.zeros((2, 0), dtype=np.int64), *linked], axis=1)
    ties = coo_array((np.ones(len(first)), (first, second)), shape=(len(names), len(names)))
    _, groups = connected_components(ties, directed=False)
    result: NDArray[np.int64] = groups[codes].astype(np.int64)
    return result


def _link(pairs: pd.DataFrame, index: "pd.Index[str]") -> NDArray[np.int64]:
    # The numbers of the lesions of each pair: (2, pairs).
    first = index.get_indexer(pd.Index(pairs["lesion_id"]))
    second = index.get_indexer(pd.Index(pairs["other_lesion_id"]))
    unknown = (first < 0) | (second < 0)
    if unknown.any():
        row = int(unknown.argmax())
        raise DataError(
            f"grouping duplicates: row {row + 2} of the pairs names the lesions "
            f"{pairs['lesion_id'].iloc[row]} and {pairs['other_lesion_id'].iloc[row]}, which are "
            "not both in the table. Make the pairs from this data set: "
            "ham10000 verify --pairs-out pairs.csv"
        )
    return np.stack([first, second]).astype(np.int64)


def write_pairs(pairs: pd.DataFrame, path: Path) -> None:
    """Write pairs as CSV, which can be edited by hand."""
    write_text(path, pairs.to_csv(index=False, lineterminator="\n"))


def read_pairs(path: Path) -> pd.DataFrame:
    """Read pairs from CSV, from `write_pairs` or edited by hand.

    Raises:
        MissingDataError: There is no such file.
        DataError: It lacks a column.
    """
    try:
        return read_csv(path, COLUMNS[2:4])
    except DataError as error:
        if "a header and no rows" in str(error):  # there may be no pairs
            return pd.DataFrame(columns=list(COLUMNS))
        raise


def _candidates(features: Sequence[Features], lesions: NDArray[np.int64]) -> NDArray[np.int64]:
    # Rows of each image and of its nearest neighbours with other lesion ids: (pairs, 2).
    found = [np.zeros((0, 2), dtype=np.int64)]
    vectors = _vlad(features)
    for start in range(0, len(vectors), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        similarity = vectors[block] @ vectors.T
        similarity[lesions[block, None] == lesions] = -np.inf
        kth = min(NUM_NEIGHBOURS, len(vectors)) - 1
        nearest = np.argpartition(-similarity, kth, axis=1)[:, : kth + 1]
        row, column = np.nonzero(np.take_along_axis(similarity, nearest, 1) > 0)
        found.append(np.sort(np.column_stack([row + start, nearest[row, column]]), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _vlad(features: Sequence[Features]) -> Floats:
    # Per image and cluster centre, the sum of the differences of the nearest vectors from it, with
    # intra-normalization (Arandjelovic and Zisserman, CVPR 2013): (images, 64 * 32).
    result = np.zeros((len(features), _WORDS * _DIMENSIONS), np.float32)
    vectors = np.concatenate([each.vectors for each in features]) if features else result
    if not len(vectors):
        return result
    kmeans = MiniBatchKMeans(_WORDS, random_state=0, n_init=1, batch_size=4096, max_iter=20)
    centres = kmeans.fit(_sample(vectors)).cluster_centers_
    half = (centres**2).sum(1) / 2
    for row, each in enumerate(features):
        word = (each.vectors @ centres.T - half).argmax(1) if len(each.vectors) else []
        sums = np.zeros((_WORDS, _DIMENSIONS), np.float32)
        np.add.at(sums, word, each.vectors - centres[word])
        result[row] = _unit(_unit(sums).ravel())
    return result


def _sample(rows: NDArray[S]) -> NDArray[S]:
    rng = np.random.default_rng(0)
    return rows[rng.choice(len(rows), min(len(rows), _SAMPLE), replace=False)]


def _bits(descriptors: NDArray[np.uint8]) -> Floats:
    return np.unpackbits(descriptors, axis=1).astype(np.float32)


def _unit(vectors: Floats) -> Floats:
    length: Floats = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9), dtype=np.float32)

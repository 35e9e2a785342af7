"""Duplicate images with different lesion ids, and the groups of images that they connect.

HAM10000 has some, which a split by lesion id alone puts in two splits. Known duplicates are the 18
pairs that Abhishek et al. confirmed (Sci. Data 12, 2025, doi:10.1038/s41597-025-04382-5); they are
in known_duplicates.csv. Others are detected in the images.

Candidates are found with a perceptual hash: which of the lowest 8 x 8 frequencies of the grey image
of 32 x 32 pixels are above their median. Dark round lesions on pale skin have similar hashes, so
candidates are then compared by phase correlation of their fine structure, which peaks where one
image is a shifted copy of the other, whatever their brightness and contrast.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ham10000.data.folder import Folder
from ham10000.data.images import read_image
from ham10000.data.metadata import read_csv
from ham10000.errors import DataError
from ham10000.utils import in_order, write_text

__all__ = [
    "MIN_SIMILARITY",
    "Fingerprint",
    "find_pairs",
    "fingerprint",
    "hash_distance",
    "known_pairs",
    "lesion_groups",
    "read_pairs",
    "scan_pairs",
    "similarity",
    "spectrum",
    "write_pairs",
]

HEIGHT, WIDTH = 72, 96
"""Size at which fine structure is compared, with HAM10000's aspect ratio of 4:3."""

# Phase correlation uses the frequencies that survive JPEG, in cycles per pixel.
_HIGHEST = 0.24
# Fine structure is the image minus a blur of it, relative to its local strength; in pixels.
_BLUR, _NEARBY = 1.1, 4.5
# In grey levels. Fine structure below it is noise, which must not be amplified.
_NOISE = 1.5


@dataclass(frozen=True)
class Fingerprint:
    """Perceptual hash and small grey copy of an image."""

    hash: int
    """64 bits."""
    grey: NDArray[np.uint8]
    """(HEIGHT, WIDTH)."""


def fingerprint(image: Tensor) -> Fingerprint:
    """Compute the fingerprint of an RGB image.

    Example:
        >>> import torch
        >>> from ham10000.data.duplicates import fingerprint, hash_distance
        >>> image = torch.arange(256, dtype=torch.uint8).repeat(3, 192, 1)
        >>> brighter = (image * 0.8 + 40).to(torch.uint8)
        >>> hash_distance(fingerprint(image).hash, fingerprint(brighter).hash) < 8
        True

    Args:
        image: (3, H, W), uint8.
    """
    grey = F.rgb_to_grayscale(image)
    small = F.resize(grey, [32, 32], antialias=True)[0].numpy().astype(np.float32)
    low = dctn(small, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean brightness carries no information
    number = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return Fingerprint(number, F.resize(grey, [HEIGHT, WIDTH], antialias=True)[0].numpy())


def hash_distance(first: int, second: int) -> int:
    """Return the number of the 64 bits in which two hashes differ."""
    return (first ^ second).bit_count()


def spectrum(greys: NDArray[np.uint8]) -> Tensor:
    """Compute the phases of the fine structure of images, the input of `similarity`.

    Args:
        greys: (N, HEIGHT, WIDTH).

    Returns:
        (N, HEIGHT, WIDTH // 2 + 1), complex.
    """
    values = greys.astype(np.float32)
    fine = values - gaussian_filter(values, (0, _BLUR, _BLUR))
    fine /= np.sqrt(gaussian_filter(fine * fine, (0, _NEARBY, _NEARBY))) + _NOISE
    # Fade out the border, where shifted images differ and vignettes are.
    window = np.outer(np.hanning(HEIGHT + 2)[1:-1], np.hanning(WIDTH + 2)[1:-1]) ** 0.5
    phases = torch.fft.rfft2(torch.from_numpy((fine * window).astype(np.float32)))
    down, across = torch.fft.fftfreq(HEIGHT)[:, None], torch.fft.rfftfreq(WIDTH)
    weight = torch.exp(-(down**2 + across**2) / (2 * _HIGHEST**2))
    phases = phases / phases.abs().clamp_min(1e-9) * weight
    energy = torch.fft.irfft2(phases.abs() ** 2, s=(HEIGHT, WIDTH))[:, :1, :1]
    result: Tensor = phases / energy.clamp_min(1e-12).sqrt()
    return result


def similarity(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    """Compare pairs of images, independently of a shift between them.

    Args:
        first: (N, ...), from `spectrum`.
        second: (N, ...), from `spectrum`.

    Returns:
        (N,), 1 for identical images, about 0.1 for unrelated ones.
    """
    peaks = torch.fft.irfft2(first * second.conj(), s=(HEIGHT, WIDTH))
    result: NDArray[np.float32] = peaks.flatten(1).amax(1).numpy()
    return result


MAX_DISTANCE = 16
"""Largest hash distance of a candidate. Of unrelated pairs 3 in 1,000 are as close."""

MIN_SIMILARITY = 0.4
"""Smallest similarity of a duplicate. Chosen on contact sheets of HAM10000's pairs across
lesion ids: every pair above it shows one lesion twice, of those from 0.3 to 0.4 one in five."""

# Batches of 16 stay in the processor's cache and are three times as fast as batches of 256.
_AT_ONCE = 16

COLUMNS = ("image_id", "other_image_id", "lesion_id", "other_lesion_id", "similarity")

_KNOWN = Path(__file__).with_name("known_duplicates.csv")


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
        table: as `read_table` returns it.

    Returns:
        One row per pair, with the columns `COLUMNS`. The similarity is that of Abhishek et al.
    """
    known = pd.read_csv(_KNOWN, comment="#")
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
    """Find pairs of images that look the same and have different lesion ids.

    Args:
        table: as `read_table` returns it.
        prints: fingerprint of the image of each row.

    Returns:
        One row per pair, with the columns `COLUMNS`, in the order of the table.
    """
    hashes = np.array([each.hash for each in prints], dtype=np.uint64)
    lesions = pd.factorize(table["lesion_id"])[0].astype(np.int64)
    candidates = _candidates(hashes, lesions)
    values = _compare(candidates, prints)
    kept = values >= MIN_SIMILARITY
    first, second = candidates[kept].T
    ids, names = table["image_id"].to_numpy(), table["lesion_id"].to_numpy()
    return pd.DataFrame(
        dict(
            zip(
                COLUMNS,
                (ids[first], ids[second], names[first], names[second], values[kept].round(3)),
                strict=True,
            )
        )
    )


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
        table: as `read_table` returns it.
        pairs: further duplicates, from `find_pairs`.
        known: whether known duplicates are in one group too.

    Returns:
        The number of the group of each row, counted from 0.

    Raises:
        DataError: a pair names a lesion that is not in the table.
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
            f"{pairs['lesion_id'].iloc[row]} and {pairs['other_lesion_id'].iloc[row]}, which the "
            "table doesn't both have. Make the pairs from this data set: "
            "ham10000 verify --pairs-out pairs.csv"
        )
    return np.stack([first, second]).astype(np.int64)


def write_pairs(pairs: pd.DataFrame, path: Path) -> None:
    """Write pairs as CSV, which can be edited by hand."""
    write_text(path, pairs.to_csv(index=False, lineterminator="\n"))


def read_pairs(path: Path) -> pd.DataFrame:
    """Read pairs from CSV, from `write_pairs` or edited by hand.

    Raises:
        MissingDataError: there is no such file.
        DataError: it lacks a column.
    """
    try:
        return read_csv(path, COLUMNS[2:4])
    except DataError as error:
        if "a header and no rows" in str(error):  # there may be no pairs
            return pd.DataFrame(columns=list(COLUMNS))
        raise


def _candidates(hashes: NDArray[np.uint64], lesions: NDArray[np.int64]) -> NDArray[np.int64]:
    found = [np.zeros((0, 2), dtype=np.int64)]
    for row in range(len(hashes) - 1):
        different = _bit_count(hashes[row + 1 :] ^ hashes[row])
        near = (different <= MAX_DISTANCE) & (lesions[row + 1 :] != lesions[row])
        others = np.flatnonzero(near) + row + 1
        found.append(np.column_stack([np.full(len(others), row), others]))
    return np.concatenate(found)


def _compare(candidates: NDArray[np.int64], prints: Sequence[Fingerprint]) -> NDArray[np.float32]:
    if not len(candidates):
        return np.zeros(0, dtype=np.float32)
    needed, places = np.unique(candidates, return_inverse=True)
    places = places.reshape(-1, 2)

    def phases_of(start: int) -> Tensor:
        rows = needed[start : start + _AT_ONCE]
        return spectrum(np.stack([prints[row].grey for row in rows]))

    starts = range(0, len(needed), _AT_ONCE)
    phases = torch.cat(list(in_order(phases_of, starts, "Preparing the candidates")))

    def compare(start: int) -> NDArray[np.float32]:
        rows = torch.from_numpy(places[start : start + _AT_ONCE])
        return similarity(phases[rows[:, 0]], phases[rows[:, 1]])

    starts = range(0, len(candidates), _AT_ONCE)
    return np.concatenate(list(in_order(compare, starts, "Comparing the candidates")))


def _bit_count(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.bitwise_count(values).astype(np.int64)

"""Checks of a data set on disk: is it complete, undamaged and the published one?"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.duplicates import (
    Fingerprint,
    find_pairs,
    fingerprint,
    known_pairs,
    lesion_groups,
)
from ham10000.data.folder import Folder, open_folder
from ham10000.data.images import decode_image, probe, read_bytes
from ham10000.data.metadata import unknown_values
from ham10000.errors import Ham10000Error, some
from ham10000.utils import in_order

__all__ = ["Finding", "VerificationReport", "verify_dataset"]

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """Result of one check."""

    check: str
    level: Level
    message: str
    items: list[str] = field(default_factory=list)
    """All files or ids concerned."""


@dataclass(frozen=True)
class VerificationReport:
    """Results of all checks of a data set."""

    root: Path
    num_images: int
    num_lesions: int
    class_counts: dict[str, int]
    findings: list[Finding]
    pairs: pd.DataFrame
    """Duplicates across lesion ids that were detected in the images, from `find_pairs`."""
    known: pd.DataFrame
    """Known duplicates that the data set has, from `known_pairs`."""

    @property
    def usable(self) -> bool:
        """Whether no check found an error. Warnings don't count."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return the report as a dict that can be written as JSON."""
        return {
            "root": str(self.root),
            "usable": self.usable,
            "images": self.num_images,
            "lesions": self.num_lesions,
            "classes": self.class_counts,
            "findings": [vars(finding) for finding in self.findings],
            "detected_duplicates": self.pairs.to_dict(orient="records"),
            "known_duplicates": self.known.to_dict(orient="records"),
        }


@dataclass(frozen=True)
class _Scan:
    size: tuple[int, int] = (0, 0)
    digest: str = ""
    print: Fingerprint | None = None
    problem: str = ""


def verify_dataset(
    root: Path, workers: int | None = None, info: DatasetInfo = HAM10000_INFO
) -> VerificationReport:
    """Check files, table, images, masks and counts, and search for duplicates.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import synthesize, verify_dataset
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=40, seed=0, width=60)
        ...     report = verify_dataset(Path(folder) / "set")
        >>> report.usable, report.num_images
        (True, 40)

    Args:
        root: Folder of the data set.
        workers: Number of threads; the number of cores by default.
        info: Description of the data set.

    Raises:
        Ham10000Error: There is no table, or it can't be read, so nothing else can be checked.
    """
    folder = open_folder(root, info)
    table = folder.table
    present = table[table["image_id"].isin(list(folder.images))].reset_index(drop=True)
    paths = [folder.images[name] for name in present["image_id"]]
    scans = list(in_order(_scan, paths, "Decoding every image", workers))
    whole = [number for number, scan in enumerate(scans) if scan.print is not None]
    prints = [scan.print for scan in scans if scan.print is not None]
    pairs = find_pairs(present.iloc[whole], prints)
    known = known_pairs(table)
    counts = {name: int((table["dx"] == name).sum()) for name in info.classes}
    findings = [
        _check_layout(folder),
        _check_present(folder),
        _check_decode(scans),
        *_check_counts(table, counts, info),
        _check_diagnoses(table),
        _check_metadata(table),
        _check_exact(present, scans),
        _check_known(known, pairs),
        _check_detected(table, pairs),
        _check_masks(folder, present["image_id"].tolist(), scans, workers),
    ]
    lesions = table["lesion_id"].nunique()
    return VerificationReport(folder.root, len(table), lesions, counts, findings, pairs, known)


def _scan(path: Path) -> _Scan:
    try:
        raw = read_bytes(path)
        image = decode_image(raw, path)
    except Ham10000Error as error:
        return _Scan(problem=str(error))
    size = (image.shape[2], image.shape[1])
    return _Scan(size, hashlib.sha256(raw).hexdigest(), fingerprint(image))


def _check_layout(folder: Folder) -> Finding:
    check = "layout"
    if not folder.repeats:
        places = len({path.parent for path in folder.images.values()})
        names = ", ".join(path.name for path, _ in folder.labels.files)
        return Finding(check, "ok", f"{names} and {places} folders of images")
    differing = [
        name
        for name, others in folder.repeats.items()
        if any(read_bytes(path) != read_bytes(folder.images[name]) for path in others)
    ]
    if differing:
        return Finding(
            check,
            "error",
            f"{len(differing)} images have copies with different content: {some(differing)}. "
            "Remove the wrong ones.",
            differing,
        )
    return Finding(
        check,
        "warning",
        f"{len(folder.repeats)} images have identical copies, which can be removed.",
        sorted(folder.repeats),
    )


def _check_present(folder: Folder) -> Finding:
    check = "files"
    ids = folder.table["image_id"].tolist()
    missing = [name for name in ids if name not in folder.images]
    if missing:
        place = folder.labels.place_of(ids.index(missing[0]))
        message = (
            f"{len(missing)} images of the table are missing: {some(missing)} "
            f"(the first in {place}). {folder.info.advice('images')}"
        )
        return Finding(check, "error", message, missing)
    known = set(ids)
    unlisted = sorted(name for name in folder.images if name not in known)
    if unlisted:
        message = f"{len(unlisted)} images are not in the table: {some(unlisted)}."
        return Finding(check, "warning", message, unlisted)
    return Finding(check, "ok", "every row has an image, and every image a row")


def _check_decode(scans: Sequence[_Scan]) -> Finding:
    problems = [scan.problem for scan in scans if scan.problem]
    if problems:
        message = f"{len(problems)} images can't be decoded: {problems[0]}"
        return Finding("decoding", "error", message, problems)
    sizes = Counter(scan.size for scan in scans)
    most = ", ".join(f"{w} x {h}: {n:,}" for (w, h), n in sizes.most_common(3))
    return Finding("decoding", "ok", f"every image can be decoded ({most})")


def _check_counts(table: pd.DataFrame, counts: dict[str, int], info: DatasetInfo) -> list[Finding]:
    lesions = table["lesion_id"].nunique()
    total = f"{len(table):,} images of {lesions:,} lesions"
    if info.num_images is None:
        findings = [Finding("counts", "ok", total)]
    elif (len(table), lesions) == (info.num_images, info.num_lesions or lesions):
        findings = [Finding("counts", "ok", f"{total}, as published")]
    else:
        published = f"{info.num_images:,}"
        if info.num_lesions is not None:
            published += f" of {info.num_lesions:,}"
        message = f"{total}; {info.title} has {published}. Is this a subset?"
        findings = [Finding("counts", "warning", message)]
    empty = [name for name, count in counts.items() if count == 0]
    shown = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if empty:
        message = f"no image of {', '.join(empty)}, so no split can contain every class."
        findings.append(Finding("classes", "error", message, empty))
    elif not info.class_counts:
        findings.append(Finding("classes", "ok", shown))
    elif counts == info.class_counts:
        findings.append(Finding("classes", "ok", f"{shown}, as published"))
    else:
        findings.append(Finding("classes", "warning", f"{shown}; not as published"))
    return findings


def _check_diagnoses(table: pd.DataFrame) -> Finding:
    kinds = table.groupby("lesion_id")["dx"].nunique()
    torn = sorted(str(name) for name in kinds.index[kinds > 1])
    if torn:
        message = f"{len(torn)} lesions have images of several dx: {some(torn)}."
        return Finding("diagnoses", "warning", message, torn)
    return Finding("diagnoses", "ok", "all images of a lesion have one dx")


def _check_metadata(table: pd.DataFrame) -> Finding:
    check = "metadata"
    items: list[str] = []
    useless: list[str] = []
    empty = ["age"] if table["age"].isna().all() else []
    for column, counts in unknown_values(table).items():
        items += [f"{column}: {value!r} in {count:,} rows" for value, count in counts.items()]
        missing = int((table[column] == "unknown").sum())
        if missing == len(table):
            empty.append(column)
        elif counts and sum(counts.values()) + missing == len(table):
            useless.append(column)
    if useless:
        message = (
            f"no value of {', '.join(useless)} is understood ({some(items)}), so that a model with "
            "metadata would be trained on constants. Rename the values."
        )
        return Finding(check, "error", message, items)
    if items:
        message = f"some values are not understood and count as unknown: {some(items)}."
        return Finding(check, "warning", message, items)
    if empty:
        message = f"no row has a value of {', '.join(empty)}; don't train with metadata."
        return Finding(check, "warning", message, empty)
    return Finding(check, "ok", "every value of sex, localization and dx_type is known or missing")


def _check_exact(table: pd.DataFrame, scans: Sequence[_Scan]) -> Finding:
    rows: dict[str, list[int]] = {}
    for row, scan in enumerate(scans):
        if scan.digest:
            rows.setdefault(scan.digest, []).append(row)
    lesions, ids = table["lesion_id"].tolist(), table["image_id"].tolist()
    same = [group for group in rows.values() if len(group) > 1]
    across = [group for group in same if len({lesions[row] for row in group}) > 1]
    items = [" = ".join(ids[row] for row in group) for group in same]
    if across:
        message = f"{len(across)} groups of identical files have different lesion ids."
        return Finding("exact duplicates", "warning", message, items)
    if same:
        message = f"{len(same)} groups of identical files, each with one lesion id."
        return Finding("exact duplicates", "warning", message, items)
    return Finding("exact duplicates", "ok", "no two files are identical")


def _check_known(known: pd.DataFrame, pairs: pd.DataFrame) -> Finding:
    check = "known duplicates"
    if known.empty:
        return Finding(check, "ok", "none across lesion ids")
    found = {frozenset(ids) for ids in pairs[["image_id", "other_image_id"]].to_numpy()}
    recall = sum(
        frozenset(ids) in found for ids in known[["image_id", "other_image_id"]].to_numpy()
    )
    message = (
        f"{len(known)} published pairs cross lesion ids, of which the search in these images finds "
        f"{recall} (recall {recall / len(known):.0%}). lesion and kfold keep each pair in "
        "one split."
    )
    return Finding(check, "warning", message, _names(known))


def _names(pairs: pd.DataFrame) -> list[str]:
    return [
        f"{row.image_id} ({row.lesion_id}) ~ {row.other_image_id} ({row.other_lesion_id})"
        for row in pairs.itertuples()
    ]


def _check_detected(table: pd.DataFrame, pairs: pd.DataFrame) -> Finding:
    check = "detected duplicates"
    if pairs.empty:
        return Finding(check, "ok", "none across lesion ids")
    merged = pd.DataFrame(
        {"group": lesion_groups(table, pairs, known=False), "lesion": table["lesion_id"]}
    ).drop_duplicates()
    number = int((merged.groupby("group").size() > 1).sum())
    message = (
        f"{number} groups of detected duplicates cross lesion ids ({len(pairs)} pairs). The splits "
        "lesion, kfold and paper_val keep each group in one split; paper does not, like the "
        "authors' code."
    )
    return Finding(check, "warning", message, _names(pairs))


def _check_masks(
    folder: Folder, ids: Sequence[str], scans: Sequence[_Scan], workers: int | None
) -> Finding:
    if not folder.masks:
        return Finding("masks", "ok", "there are none; they are optional")
    missing = [name for name in folder.table["image_id"] if name not in folder.masks]
    sized = [
        (name, scan.size)
        for name, scan in zip(ids, scans, strict=True)
        if scan.print is not None and name in folder.masks
    ]

    def job(item: tuple[str, tuple[int, int]]) -> str:
        name, (width, height) = item
        path = folder.masks[name]
        try:
            across, down = probe(read_bytes(path), path, ("PNG",))
        except Ham10000Error as error:
            return str(error)
        # Images may be a reduced copy, with the same aspect ratio up to a pixel.
        if abs(across * height - down * width) > max(across, down):
            return f"{path} is {across} x {down}, its image {width} x {height}."
        return ""

    wrong = [text for text in in_order(job, sized, "Checking the masks", workers) if text]
    if wrong:
        return Finding("masks", "error", f"{len(wrong)} masks can't be used: {wrong[0]}", wrong)
    if missing:
        message = f"{len(missing)} images have no mask: {some(missing)}."
        return Finding("masks", "warning", message, missing)
    return Finding("masks", "ok", f"{len(sized):,}, with the shapes of their images")

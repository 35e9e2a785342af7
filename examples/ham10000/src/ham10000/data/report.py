"""What `verify` found, for people and for machines."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pandas as pd

__all__ = ["Finding", "Report"]

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    message: str
    items: list[str] = field(default_factory=list)
    """The files or ids concerned, all of them."""


@dataclass(frozen=True)
class Report:
    """What all checks found."""

    root: Path
    num_images: int
    num_lesions: int
    class_counts: dict[str, int]
    findings: list[Finding]
    pairs: pd.DataFrame
    """The near-duplicates across lesion ids, as `find_pairs` gives them."""

    @property
    def usable(self) -> bool:
        """Whether no check found an error; warnings don't count."""
        return all(finding.level != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON can hold it."""
        return {
            "root": str(self.root),
            "usable": self.usable,
            "images": self.num_images,
            "lesions": self.num_lesions,
            "classes": self.class_counts,
            "findings": [vars(finding) for finding in self.findings],
            "near_duplicates": self.pairs.to_dict(orient="records"),
        }

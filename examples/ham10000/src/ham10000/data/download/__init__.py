"""Download of the data set: sources, resumed transfers and safe extraction."""

from ham10000.data.download.download import PARTS, SOURCES, Part, download_dataset, extract
from ham10000.data.download.http import Patience, fetch

__all__ = ["PARTS", "SOURCES", "Part", "Patience", "download_dataset", "extract", "fetch"]

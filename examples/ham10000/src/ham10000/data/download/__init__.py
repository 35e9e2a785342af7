"""Download of the data set: sources, resumed transfers and safe extraction."""

from ham10000.data.download.download import download_dataset, extract
from ham10000.data.download.http import Patience, fetch
from ham10000.data.download.sources import PARTS, SOURCES, Part

__all__ = ["PARTS", "SOURCES", "Part", "Patience", "download_dataset", "extract", "fetch"]

"""HAM10000 from the download to a report, with no lesion in two splits."""

__version__ = "0.1.0"

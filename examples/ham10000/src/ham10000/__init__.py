"""HAM10000 from the download to batches, with no lesion in two splits."""

__version__ = "0.1.0"

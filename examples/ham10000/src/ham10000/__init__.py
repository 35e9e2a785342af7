"""Train and evaluate classifiers of skin lesions on HAM10000, from the download to a report."""

__version__ = "0.1.0"

"""Synthetic data sets in the layout of published ones."""

from ham10000.data.synthetic.layouts import LayoutName, synthetic_table
from ham10000.data.synthetic.synthesize import synthesize

__all__ = ["LayoutName", "synthesize", "synthetic_table"]

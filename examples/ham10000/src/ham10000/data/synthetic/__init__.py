"""A synthetic data set in HAM10000's layout, for tests, demos and wherever none can be had."""

from ham10000.data.synthetic.synthesize import synthesize
from ham10000.data.synthetic.table import synthetic_table

__all__ = ["synthesize", "synthetic_table"]

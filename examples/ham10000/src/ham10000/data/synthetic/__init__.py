"""A synthetic data set in the layout of HAM10000, for tests, demos and documentation."""

from ham10000.data.synthetic.synthesize import synthesize, synthetic_table

__all__ = ["synthesize", "synthetic_table"]

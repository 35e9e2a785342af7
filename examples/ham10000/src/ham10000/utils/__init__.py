"""What every part of the example needs: the console."""

from ham10000.utils.console import console

__all__ = ["console"]

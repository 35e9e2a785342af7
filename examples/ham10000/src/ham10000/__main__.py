"""Run the command `ham10000` as `python -m ham10000`."""

from ham10000.cli import main

if __name__ == "__main__":
    raise SystemExit(main())

"""Run the command with `python -m softattn`."""

import sys

import softattn.cli

sys.exit(softattn.cli.main())

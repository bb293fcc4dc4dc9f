"""Runs `python -m modeling_anomalygpt.cli`."""

import sys

from . import main

sys.exit(main())

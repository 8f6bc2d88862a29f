"""`python -m infer_daemon.chaos`, as `scripts/chaos` runs it."""

import sys

from infer_daemon.chaos.command import main

sys.exit(main())

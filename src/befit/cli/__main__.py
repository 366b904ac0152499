"""`python -m befit.cli` is `befit`."""

import sys

from befit.cli import main

sys.exit(main())

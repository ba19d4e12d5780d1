"""`python -m mossrepro` is the same as `mossrepro`."""

import sys

from mossrepro.cli import main

sys.exit(main())

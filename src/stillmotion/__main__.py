"""`python -m stillmotion` is the command `stillmotion`."""

import sys

from stillmotion.cli import main

sys.exit(main())

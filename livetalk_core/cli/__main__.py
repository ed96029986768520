"""`python -m livetalk_core.cli`."""

import sys

from livetalk_core.cli.main import main

sys.exit(main())

"""Where the small data sets lie that some tests read (datasets/README.md); those tests skip where the folder is absent."""

import os
from pathlib import Path

from helpers.golden import REPOSITORY

# $ADET_IUQ_DATA, else the folder beside the checkout.
DATA = Path(os.environ.get("ADET_IUQ_DATA") or REPOSITORY.parent / "shared" / "data")

"""Makes `python -m adet_iuq` the same as the console command `adet-iuq`."""

import sys

from adet_iuq.commands.console import main

if __name__ == "__main__":
    sys.exit(main())

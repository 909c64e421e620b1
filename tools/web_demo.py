#!/usr/bin/env python
"""The page in the browser, as `adet-iuq web` serves it: adet_iuq/web/app.py."""

import sys

import adet_iuq.program  # noqa: F401  first: Ctrl-C, and warnings of imports

from adet_iuq.web.app import main

if __name__ == "__main__":
    sys.exit(main())

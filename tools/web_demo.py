#!/usr/bin/env python
"""The page in the browser, as `adet-iuq web` serves it: adet_iuq/web/app.py."""

import sys

import adet_iuq.ctrl_c  # noqa: F401  Ctrl-C ends this with one line
from adet_iuq.web.app import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""The page in the browser: python tools/web_demo.py --run output/quickstart (see adet_iuq/web/app.py)."""

import sys

from adet_iuq.web.app import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m runtime.bench`: the same as `trt-audioldm2-bench`."""

import sys

from runtime.bench.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.benchmarks`: see `runner`, a module of its own because child processes can't import this one."""

import sys

from tests.benchmarks.runner import main

if __name__ == "__main__":
    sys.exit(main())

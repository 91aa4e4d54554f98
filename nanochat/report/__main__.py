"""`python -m nanochat.report reset|generate`, the same as `nanochat report …`."""

import sys

from nanochat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))

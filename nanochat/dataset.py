"""`python -m nanochat.dataset -n 8`: a short form of `nanochat data download`."""

import sys

from nanochat.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["data", "download", *sys.argv[1:]]))

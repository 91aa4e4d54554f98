"""`nanochat` with saves that take some seconds; each prints "saving" to stderr when it begins."""

import sys
import time
from unittest import mock

from nanochat.checkpoint import store
from nanochat.cli.main import main

SAVE_S = 4
write = store.save


def save(*args, **kwargs):
    print("saving", file=sys.stderr, flush=True)
    time.sleep(SAVE_S)
    return write(*args, **kwargs)


if __name__ == "__main__":
    with mock.patch.object(store, "save", save):
        sys.exit(main())

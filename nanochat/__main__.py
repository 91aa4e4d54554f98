"""`python -m nanochat` and `torchrun … -m nanochat`."""

from nanochat.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())

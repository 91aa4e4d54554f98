"""The libraries of the extra `export`, which not every installation has."""

import importlib.util

from nanochat.errors import EnvironmentFault


def require(*names: str) -> None:
    """Raise EnvironmentFault unless all these packages can be imported."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentFault(
            f"{' and '.join(missing)} not installed: run `uv pip install -e '.[export]'` in the clone"
        )

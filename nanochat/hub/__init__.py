"""Downloads: locked, resumed, retried, checked, atomic. Honours `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.

`listing` knows what the hub has, `batch` brings many files, `transfer` one, in `threads` that may be left
behind; `fetch` is what others call.
"""

from nanochat.hub.batch import WORKERS
from nanochat.hub.fetch import check_parquet, fetch_files, fetch_url, hub_parquet, hub_parquet_files
from nanochat.hub.listing import RemoteFile, list_files
from nanochat.hub.transfer import RetryPolicy

__all__ = [
    "WORKERS",
    "RemoteFile",
    "RetryPolicy",
    "check_parquet",
    "fetch_files",
    "fetch_url",
    "hub_parquet",
    "hub_parquet_files",
    "list_files",
]

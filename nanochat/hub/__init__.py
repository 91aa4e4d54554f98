"""Downloads: locked, resumed, retried, checked, atomic. Honours `HF_ENDPOINT`, `HF_TOKEN`, `HF_HUB_OFFLINE`.

`fetch` has the functions that other packages call. `listing` asks what the hub has, `batch` downloads many files,
`transfer` one; `retry` decides what to retry; `threads` runs the work so that Ctrl-C ends it at once.
"""

from nanochat.hub.batch import WORKERS
from nanochat.hub.fetch import check_parquet, fetch_files, fetch_url, hub_parquet_files
from nanochat.hub.listing import RemoteFile, list_files
from nanochat.hub.retry import RetryPolicy

__all__ = [
    "WORKERS",
    "RemoteFile",
    "RetryPolicy",
    "check_parquet",
    "fetch_files",
    "fetch_url",
    "hub_parquet_files",
    "list_files",
]

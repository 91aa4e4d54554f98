"""Names, sizes, hashes and addresses of files on the hub.

huggingface_hub builds addresses and headers and provides the HTTP session.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from nanochat import __version__
from nanochat.config import from_json, parse_json
from nanochat.errors import EnvironmentFault
from nanochat.hub.batch import WORKERS, Job
from nanochat.hub.retry import DENIED, RUN_AGAIN, Refused, RetryPolicy, retrying
from nanochat.hub.threads import Cancellation, in_threads
from nanochat.hub.transfer import DownloadSource

PARQUET_EXPORT = "refs/convert/parquet"  # the revision that holds every dataset converted to parquet
_FIRST_CONTACT_ATTEMPTS = 5  # fewer than for a hub that has answered before
_SHOWN_BYTES = 60  # of a malformed answer
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class RemoteFile:
    """A file on the hub; size or sha256 is None if the hub does not state it."""

    repo: str
    filename: str
    size: int | None
    sha256: str | None
    url: str

    def to(self, directory: Path) -> Job:
        """The job that downloads it to its own name below `directory`."""
        source = DownloadSource(Path(self.filename).name, self.url, _headers(), self.size, self.sha256)
        return Job(source, directory / self.filename)


@dataclass(frozen=True)
class LargeFile:
    """Extra fields of a listing for a file in large-file storage."""

    oid: str


@dataclass(frozen=True)
class ListedFile:
    """An entry of a listing. Raises ValueError if it cannot be a file of the repository."""

    path: str
    size: int
    lfs: LargeFile | None = None

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"{self.path} has a size of {self.size}")
        parts = self.path.split("/")
        if not self.path.isprintable() or "\\" in self.path or {"", ".", ".."} & set(parts):
            raise ValueError(f"{self.path!r} is not a path within a repository")


def endpoint() -> str:
    """The hub's address. Raises ValueError if HF_ENDPOINT is not one."""
    from huggingface_hub import constants

    address = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    require_http(address, "HF_ENDPOINT")
    return address


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE currently forbids the network."""
    from huggingface_hub import constants

    value = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return constants.HF_HUB_OFFLINE or value in constants.ENV_VARS_TRUE_VALUES


def list_files(
    repo: str,
    *,
    revision: str = "main",
    folder: str = "",
    policy: RetryPolicy = RetryPolicy(),  # noqa: B008 - frozen
) -> dict[str, RemoteFile]:
    """Every file of a dataset repository (or one of its folders) by name, with size and, for large files, sha256.

    Raises Refused if the hub has no such repository or does not list, EnvironmentFault if it does not answer.
    """
    address = f"{endpoint()}/api/datasets/{repo}/tree/{quote(revision, safe='')}"
    address = f"{address}/{quote(folder, safe='')}".rstrip("/")
    query = "recursive=true"
    files: dict[str, RemoteFile] = {}
    while query:
        # Not HfApi.list_repo_tree, which has no timeout: a stalled hub would hang it for ever.
        answer = ask("GET", f"{address}?{query}", f"listing {repo}", policy, _headers(), _remedy())
        try:
            for entry in _listed_files(answer.content):
                sha256 = _sha256_or_none(entry.lfs.oid if entry.lfs else None)
                url = _url(repo, entry.path, revision)
                files[entry.path] = RemoteFile(repo, entry.path, entry.size, sha256, url)
            # Only the link's query: on a mirror its host is that of the mirrored hub, which must not receive the
            # token and may be unreachable.
            following = urlsplit(answer.links.get("next", {}).get("url", "")).query
            if following == query:
                raise ValueError("the page names itself as the next")
        except ValueError as error:
            said = answer.content[:_SHOWN_BYTES]
            line = f"listing {repo}: {address} did not return a list of files but {said!r} ({error})"
            raise Refused(line, 404) from error
        query = following
    return files


def _listed_files(answer: bytes) -> list[ListedFile]:
    """The files on one page of a listing. Raises ValueError for a malformed page."""
    entries = parse_json(answer)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("expected a list of entries")
    files = [entry for entry in entries if entry.get("type") == "file"]
    return [from_json(ListedFile, entry, ignore_unknown=True) for entry in files]


def describe(repo: str, filenames: Sequence[str], policy: RetryPolicy) -> list[RemoteFile]:
    """These files on the hub, from one listing, or one request per file if a mirror does not list."""
    try:
        files = list_files(repo, policy=policy)
    except Refused as refusal:
        if refusal.status in DENIED:
            raise

        def ask_for(name: str, cancelled: Cancellation) -> RemoteFile:
            return _head(repo, name, "main", policy, cancelled)

        with in_threads(ask_for, filenames, WORKERS) as futures:
            return [future.result() for future in futures]
    missing = [name for name in filenames if name not in files]
    if missing:
        raise EnvironmentFault(f"{repo} has no {name_some(missing)} (it has {len(files)} files)")
    return [files[name] for name in filenames]


def _head(
    repo: str, filename: str, revision: str, policy: RetryPolicy, cancelled: Cancellation | None = None
) -> RemoteFile:
    """One file on the hub. Raises Refused if it does not exist."""
    from huggingface_hub import get_hf_file_metadata

    url = _url(repo, filename, revision)

    def attempt() -> RemoteFile:
        stated = get_hf_file_metadata(url, timeout=policy.stall_timeout_s, headers=_headers())
        return RemoteFile(repo, filename, stated.size, _sha256_or_none(stated.etag), url)

    return retrying(
        attempt, f"{repo}/{filename}", _first_contact(policy), cancelled=cancelled, remedy=_remedy()
    )


def exported(repo: str, folder: str) -> list[RemoteFile]:
    """The parquet files in a folder of the hub's export, in order."""
    try:
        listed = list_files(repo, revision=PARQUET_EXPORT, folder=folder)
        # Names from the network become paths, so accept only the form that exports have.
        shape = re.compile(rf"{re.escape(folder)}/\d{{4}}\.parquet")
        files = [listed[name] for name in sorted(listed) if shape.fullmatch(name)]
    except Refused as refusal:
        if refusal.status in DENIED:
            raise
        files = list(_probe(repo, folder))
    if not files:
        raise EnvironmentFault(f"{repo} has no parquet export of {folder} on {endpoint()}")
    return files


def _probe(repo: str, folder: str) -> Iterator[RemoteFile]:
    """Request 0000.parquet, 0001.parquet … from a mirror that does not list, until one is missing."""
    for index in count():
        try:
            yield _head(repo, f"{folder}/{index:04d}.parquet", PARQUET_EXPORT, RetryPolicy())
        except Refused as refusal:
            if refusal.status != 404:
                raise
            return


def _url(repo: str, filename: str, revision: str) -> str:
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repo, filename, repo_type="dataset", revision=revision, endpoint=endpoint())


def _remedy() -> str:
    return f"check the network to {endpoint()}, or set HF_ENDPOINT to a mirror"


def ask(
    method: str, url: str, what: str, policy: RetryPolicy, headers: dict[str, str], remedy: str = RUN_AGAIN
) -> Any:
    """The answer to one small request, with retries and the body read; `remedy` as in `retrying`."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import hf_raise_for_status

    def attempt() -> Any:
        answer = get_session().request(
            method, url, headers=headers, timeout=policy.timeout, follow_redirects=True
        )
        hf_raise_for_status(answer)
        return answer

    return retrying(attempt, what, _first_contact(policy), remedy=remedy)


def describe_url(url: str, name: str, policy: RetryPolicy) -> DownloadSource:
    """A file at a plain address, as described by its server."""
    try:
        headers = ask("HEAD", url, name, policy, {"Accept-Encoding": "identity"}).headers
    except Refused as refusal:
        if refusal.status in (405, 501):  # a server without HEAD: the size is known only from the download
            return DownloadSource(name, url)
        raise
    length = headers.get("Content-Length", "")
    return DownloadSource(
        name,
        url,
        size=int(length) if length.isdigit() else None,
        version=headers.get("ETag") or headers.get("Last-Modified"),
    )


def _first_contact(policy: RetryPolicy) -> RetryPolicy:
    return replace(policy, attempts=min(policy.attempts, _FIRST_CONTACT_ATTEMPTS))


def _headers() -> dict[str, str]:
    """User agent, and the token if there is one."""
    from huggingface_hub.utils import build_hf_headers

    return build_hf_headers(library_name="nanochat", library_version=__version__)


def _sha256_or_none(etag: str | None) -> str | None:
    """The sha256 in an ETag: the hub sends it for large files, but git's hash for small ones."""
    return etag if etag is not None and _SHA256.fullmatch(etag) else None


def is_http(address: str) -> bool:
    """Whether it is an http(s) address with a host, to which a request can be sent."""
    import httpx

    try:
        parts = urlsplit(address)
        httpx.URL(address)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # an impossible port, host or character
        return False


def require_http(address: str, what: str) -> None:
    """Raises ValueError unless `address` is an http(s) address with a host."""
    if not is_http(address):
        raise ValueError(f"{what} must be an address like https://example.org, got {address!r}")


def name_some(names: Sequence[str]) -> str:
    """The first few of some names."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"

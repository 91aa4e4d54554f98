"""A loopback Hugging Face hub over real HTTP, with injectable faults.

It implements what huggingface_hub and `nanochat.hub` request: the paged list of a dataset's files, the files of a
model, publishing a model, and HEAD and GET of a file, redirected to another origin like the hub's content network.
`/plain/NAME` serves the files of the repository "plain" like an ordinary web server.

    with loopback_hub(monkeypatch) as hub:
        hub.add("owner/name", "shard_00000.parquet", data)
        hub.break_next("cut")
        fetch_files("owner/name", ["shard_00000.parquet"], directory)
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

COMMIT = "c0ffee" + "0" * 34
FAULTS = ("cut", "stall", "429", "503", "flip", "truncate", "padded")
PAGE = 4  # files on a page of a listing
TOKEN = "hf_loopback"


@dataclass(frozen=True)
class Request:
    """A request that the server received, and the fault it answered with."""

    method: str
    path: str
    range: str | None
    token: str | None
    fault: str | None


@dataclass
class LoopbackHub:
    """The server and its state. Attributes may be changed while it runs."""

    ignores_ranges: bool = False
    lists: bool = True  # whether it has the listing API, which plain mirrors lack
    states_hashes: bool = True
    has_head: bool = True  # whether /plain/ knows HEAD
    prefix: str = ""  # the path of HF_ENDPOINT
    page: bytes | None = None  # what a listing answers instead of its entries
    next_link: str = "{hub.url}{path}?{query}"  # how a page of a listing names the next one
    faults: dict[str, str] = field(default_factory=dict)  # what every path that begins so is answered with
    brake: dict[str, str] = field(default_factory=dict)  # headers sent with 429 and 503
    requests: list[Request] = field(default_factory=list)
    made: list[dict] = field(default_factory=list)  # what repositories were asked to be made
    vanished: threading.Event = field(default_factory=threading.Event)
    _files: dict[tuple[str, str, str], bytes] = field(default_factory=dict)
    _stated: dict[str, dict] = field(default_factory=dict)
    _script: deque[str] = field(default_factory=deque)
    _share: float = 0.0
    _deck: list[bool] = field(default_factory=list)
    _random: random.Random = field(default_factory=random.Random)
    _kinds: Sequence[str] = ()
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _sockets: set[socket.socket] = field(default_factory=set)
    _released: threading.Event = field(default_factory=threading.Event)
    _server: ThreadingHTTPServer | None = None
    _port: int = 0

    # ---- what tests call

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def add(self, repo: str, filename: str, data: bytes, revision: str = "main") -> None:
        self._files[repo, revision, filename] = data

    def state(self, filename: str, size: int | None = None, sha256: str | None = None) -> None:
        """State this size or hash for a file in listings, true or not."""
        self._stated[filename] = {"size": size, "sha256": sha256}

    def break_next(self, *faults: str) -> None:
        """Answer the next content requests with these faults, one each ("ok": no fault)."""
        self._script.extend(faults)

    def break_share(self, share: float, seed: int, kinds: Sequence[str] = FAULTS) -> None:
        """Let this share of every ten requests fail, by a seeded sequence."""
        self._share, self._random, self._kinds = share, random.Random(seed), kinds

    def content_requests(self, filename: str = "") -> list[Request]:
        """The requests for file content (of this name)."""
        return [
            request
            for request in self.requests
            if request.method == "GET"
            and re.match("/(content|plain)/", request.path)
            and filename in request.path
        ]

    def release(self) -> None:
        """Continue stalled answers; no further ones stall."""
        self._released.set()

    def start(self) -> None:
        """Start, or restart at the same address."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._port = self._server.server_address[1]
        self.vanished.clear()
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def vanish(self) -> None:
        """Stop listening and close every connection."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        for connection in tuple(self._sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.vanished.set()

    def close(self) -> None:
        self.release()
        self.vanish()

    # ---- what the handler calls

    def next_fault(self, path: str, is_content: bool) -> str | None:
        for beginning, fault in self.faults.items():
            if path.startswith(beginning):
                return fault
        with self._lock:
            if is_content and self._script:
                fault = self._script.popleft()
                return None if fault == "ok" else fault
            if not self._deck:
                failing = round(10 * self._share)
                self._deck = self._random.sample([True] * failing + [False] * (10 - failing), 10)
            if self._deck.pop():
                return self._random.choice(self._kinds if is_content else ("429", "503"))
            return None

    def find(self, repo: str, revision: str, filename: str) -> bytes | None:
        return self._files.get((repo, "main" if revision == COMMIT else revision, filename))

    def listing(self, repo: str, revision: str, folder: str) -> list[dict] | None:
        """The entries of a repository, or None if it does not exist."""
        revision = "main" if revision == COMMIT else revision
        if not any((repo, revision) == key[:2] for key in self._files):
            return None
        entries = []
        for (owner, version, name), data in sorted(self._files.items()):
            if (owner, version) == (repo, revision) and name.startswith(folder):
                stated = self._stated.get(name, {})
                size = stated.get("size") or len(data)
                entry = {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(data).hexdigest()}
                if self.states_hashes:
                    sha256 = stated.get("sha256") or hashlib.sha256(data).hexdigest()
                    entry["lfs"] = {"oid": sha256, "size": size, "pointerSize": 134}
                entries.append(entry)
        return entries

    def etag(self, data: bytes) -> str:
        return f'"{hashlib.sha256(data).hexdigest() if self.states_hashes else len(data)}"'

    def wait_for_release(self) -> None:
        self._released.wait()


@contextmanager
def loopback_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A running hub, set as HF_ENDPOINT, in an environment without the user's proxy and token."""
    import huggingface_hub
    from huggingface_hub import constants

    hub = LoopbackHub()
    hub.start()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    huggingface_hub.close_session()  # the next one reads NO_PROXY
    try:
        yield hub
    finally:
        hub.close()
        huggingface_hub.close_session()


def _handler(hub: LoopbackHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        routes = (
            (re.compile(r"/api/(?:datasets|models)/(.+)/tree/([^/]+)/?(.*)"), "_list"),
            (re.compile(r"/datasets/(.+)/resolve/([^/]+)/(.+)"), "_resolve"),
            (re.compile(r"/api/models/(.+)/revision/([^/]+)"), "_model"),
            (re.compile(r"/(?!datasets/|api/|content/)(.+)/resolve/([^/]+)/(.+)"), "_resolve"),
            (re.compile(r"/content/(.+)@([^/]+)/(.+)"), "_content"),
            (re.compile(r"/(plain)/(.+)"), "_plain"),
        )

        def setup(self) -> None:
            super().setup()
            hub._sockets.add(self.connection)

        def finish(self) -> None:
            hub._sockets.discard(self.connection)
            super().finish()

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None:
            """No log."""

        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            is_content = self.command == "GET" and path.startswith(("/content/", "/plain/"))
            self.fault = hub.next_fault(path, is_content)
            token = self.headers.get("Authorization")
            hub.requests.append(Request(self.command, path, self.headers.get("Range"), token, self.fault))
            if self.fault == "silence":
                hub.wait_for_release()
                self.close_connection = True
                return
            if self.fault is not None and self.fault.isdigit():
                self._answer(int(self.fault), b"", **hub.brake)
                return
            for pattern, name in self.routes:
                if match := pattern.fullmatch(path if is_content else path.removeprefix(hub.prefix)):
                    getattr(self, name)(*(unquote(group) for group in match.groups()))
                    return
            self._answer(404, b"")

        do_HEAD = do_GET

        def do_POST(self) -> None:
            """Publishing a model: make the repository, ask how to send files, send them all in one commit."""
            path = urlsplit(self.path).path
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            token = self.headers.get("Authorization")
            self.fault = hub.next_fault(path, False)
            hub.requests.append(Request("POST", path, None, token, self.fault))
            if self.fault is not None and self.fault.isdigit():
                self._answer(int(self.fault), b"")
            elif path == "/api/repos/create":
                asked = json.loads(body)
                hub.made.append(asked)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                self._json({"url": f"{hub.url}/{name}", "id": name})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self._json({"files": files})
            elif found := re.fullmatch(r"/api/models/(.+)/commit/main", path):
                for line in map(json.loads, body.splitlines()):
                    if line["key"] == "file":
                        data = base64.b64decode(line["value"]["content"])
                        hub.add(found[1], line["value"]["path"], data)
                self._json({"commitUrl": f"{hub.url}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
            else:
                self._answer(404, b"")

        def _json(self, content: object) -> None:
            self._answer(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

        def _model(self, repo: str, revision: str) -> None:
            names = [name for owner, _, name in hub._files if owner == repo]
            if not names:
                self._answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
                return
            siblings = [{"rfilename": name} for name in names]
            self._json({"id": repo, "sha": COMMIT, "siblings": siblings, "private": False})

        def _list(self, repo: str, revision: str, folder: str) -> None:
            entries = hub.listing(repo, revision, folder) if hub.lists else None
            if entries is None:
                self._answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
                return
            start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
            query = f"recursive=true&cursor={start + PAGE}"
            following = hub.next_link.format(hub=hub, path=urlsplit(self.path).path, query=query)
            links = {"Link": f'<{following}>; rel="next"'} if start + PAGE < len(entries) else {}
            page = hub.page or json.dumps(entries[start : start + PAGE]).encode()
            self._answer(200, page, **links)

        def _resolve(self, repo: str, revision: str, filename: str) -> None:
            data = hub.find(repo, revision, filename)
            if data is None:
                self._answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
                return
            # "localhost" is another origin than 127.0.0.1: the token must not follow there.
            location = (
                f"http://localhost:{hub._port}/content/{repo}@{revision.replace('/', '%2F')}/{filename}"
            )
            headers = {"Location": location, "X-Repo-Commit": COMMIT, "X-Linked-Etag": hub.etag(data)}
            self._answer(302, b"", **headers, **{"X-Linked-Size": str(len(data))})

        def _content(self, repo: str, revision: str, filename: str) -> None:
            self._serve(hub.find(repo, revision, filename))

        def _plain(self, repo: str, filename: str) -> None:
            if self.command == "HEAD" and not hub.has_head:
                self._answer(405, b"")
                return
            self._serve(hub.find(repo, "main", filename))

        def _serve(self, data: bytes | None) -> None:
            if data is None:
                self._answer(404, b"")
                return
            start = 0
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if asked and not hub.ignores_ranges:
                start = int(asked[1])
            end = len(data) if self.fault != "truncate" else len(data) // 2
            if start >= end and asked:
                self._answer(416, b"", **{"Content-Range": f"bytes */{end}"})
                return
            headers = {"ETag": hub.etag(data), "Accept-Ranges": "bytes"}
            if start:
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{end}"
            self._answer(206 if start else 200, data[start:end], **headers)

        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            middle = len(body) // 2
            if self.fault == "flip" and body:
                body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
            elif self.fault == "padded":
                body += b"\0" * 7
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.fault not in ("cut", "stall", "vanish"):
                self.wfile.write(body)
                return
            self.wfile.write(body[:middle])
            self.wfile.flush()
            self.close_connection = True
            if self.fault == "stall":
                hub.wait_for_release()
                self.wfile.write(body[middle:])
            elif self.fault == "vanish":
                hub.vanish()

    return Handler

"""Listings of the hub, and how mirrors differ."""

import hashlib
import json
import time
from dataclasses import replace

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.hub import RetryPolicy, list_files
from nanochat.hub.listing import describe, describe_url, endpoint, exported, is_offline
from nanochat.hub.retry import Refused
from tests.hub_server import PAGE, TOKEN, LoopbackHub

NAMES = [f"shard_{index:05d}.parquet" for index in range(2 * PAGE + 1)]


def fill(hub):
    for name in NAMES:
        hub.add("owner/name", name, name.encode())


def test_lists_every_page(hub, policy):
    fill(hub)
    files = list_files("owner/name", policy=policy)
    assert list(files) == NAMES
    for name, file in files.items():
        assert (file.size, file.sha256) == (len(name), hashlib.sha256(name.encode()).hexdigest())
    assert len(hub.requests) == 3
    assert {request.token for request in hub.requests} == {f"Bearer {TOKEN}"}


@pytest.mark.parametrize("prefix", ["", "/mirror/of"])
@pytest.mark.parametrize(
    "link", ["{other}{path}?{query}", "{other}/api/x?{query}", "{path}?{query}", "?{query}"]
)
def test_the_next_page_is_requested_from_the_same_mirror(link, prefix, hub, policy, monkeypatch):
    """Links of a mirror may name the original hub, which must not receive the token."""
    fill(hub)
    other = LoopbackHub()
    other.start()
    hub.prefix, hub.next_link = prefix, link.replace("{other}", other.url)
    monkeypatch.setenv("HF_ENDPOINT", hub.url + prefix)
    try:
        assert list(list_files("owner/name", policy=policy)) == NAMES
    finally:
        other.close()
    assert not other.requests
    assert [request.path for request in hub.requests] == [f"{prefix}/api/datasets/owner/name/tree/main"] * 3


def test_a_cycle_of_pages_is_an_error(hub, policy):
    fill(hub)
    listed = describe("owner/name", NAMES, policy)
    hub.next_link = "{path}?recursive=true"
    with pytest.raises(Refused, match="did not return a list of files"):
        list_files("owner/name", policy=policy)
    assert describe("owner/name", NAMES, policy) == listed


def _page(**changes):
    """A listing of one file, some of its fields replaced (None: left out)."""
    entry = {"type": "file", "path": NAMES[0], "size": 5, "oid": "0" * 40, **changes}
    return json.dumps([{name: value for name, value in entry.items() if value is not None}]).encode()


@pytest.mark.parametrize(
    ("page", "says"),
    [
        (b"<html>welcome</html>", "<html>welcome</html>"),
        (b"null", "but b'null' (expected a list"),
        (b'{"error": "none"}', '{"error": "none"}'),
        (b"[null]", "expected a list of entries"),
        (b"[" * 5000, "nested"),
        (b'[{"type": "file", "lfs": ' + b"[" * 200 + b"]" * 200 + b"}]", "nested"),
        (b"\xff\xfe", "xff"),
        (_page(path=None), "missing path"),
        (_page(size=None), "missing size"),
        (_page(size="5"), "size: expected int, got '5'"),
        (_page(size=True), "size: expected int, got True"),
        (_page(size=1.5), "size: expected int, got 1.5"),
        (_page(size=-1), "has a size of -1"),
        (_page(lfs=[1]), "lfs: expected the fields"),
        (_page(lfs={"oid": 5}), "oid: expected str, got 5"),
        (_page(path=["a"]), "path: expected str"),
        (_page(path="../escaped"), "'../escaped' is not a path"),
        (_page(path="a/../../escaped"), "is not a path"),
        (_page(path="/etc/passwd"), "'/etc/passwd' is not a path"),
        (_page(path="a\\..\\b"), "is not a path"),
        (_page(path="a\nb"), "is not a path"),
        (_page(path=""), "'' is not a path"),
    ],
)
def test_a_malformed_listing_is_one_line_that_names_what_the_server_said(page, says, hub, policy):
    fill(hub)
    hub.page = page
    with pytest.raises(Refused, match="did not return a list of files") as caught:
        list_files("owner/name", policy=policy)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert [file.size for file in describe("owner/name", NAMES[:1], policy)] == [len(NAMES[0])]


def test_folders_and_new_fields_of_a_listing_are_passed_over(hub, policy):
    fill(hub)
    hub.next_link = "?"
    file = json.loads(_page(xetHash="0", security={"safe": True}, lfs={"oid": "a" * 64, "pointerSize": 1}))
    hub.page = json.dumps([{"type": "directory", "path": "data", "oid": "0"}, *file]).encode()
    assert list(list_files("owner/name", policy=policy)) == NAMES[:1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stalled", "fault", "ask"),
    [
        ("/api/", "silence", lambda hub, policy: list_files("owner/name", policy=policy)),
        ("/api/", "stall", lambda hub, policy: list_files("owner/name", policy=policy)),
        ("/datasets/", "silence", lambda hub, policy: describe("owner/name", NAMES[:1], policy)),
        ("/plain/", "silence", lambda hub, policy: describe_url(f"{hub.url}/plain/x", "x", policy)),
    ],
)
def test_a_stalled_server_is_given_up_within_the_policy(stalled, fault, ask, hub, policy):
    fill(hub)
    hub.lists = stalled == "/api/"
    hub.faults = {stalled: fault}
    began = time.monotonic()
    with pytest.raises(EnvironmentFault, match="5 times in a row") as caught:
        ask(hub, replace(policy, stall_timeout_s=0.1))
    assert time.monotonic() - began < RetryPolicy().stall_timeout_s / 3
    assert "\n" not in str(caught.value)
    assert ("set HF_ENDPOINT to a mirror" in str(caught.value)) == (stalled != "/plain/")
    asked = [request for request in hub.requests if request.path.startswith(stalled)]
    assert len(asked) == 5


def test_git_object_ids_are_not_taken_for_sha256(hub, policy):
    fill(hub)
    hub.states_hashes = False
    assert {file.sha256 for file in list_files("owner/name", policy=policy).values()} == {None}


def test_transient_errors_of_the_hub_are_retried(hub, policy):
    fill(hub)
    hub.break_share(0.5, seed=2)
    assert len(list_files("owner/name", policy=policy)) == len(NAMES)
    assert any(request.fault for request in hub.requests)


@pytest.mark.parametrize("states_hashes", [True, False])
def test_a_mirror_without_listing_is_queried_per_file(states_hashes, hub, policy):
    fill(hub)
    hub.states_hashes = states_hashes
    listed = describe("owner/name", NAMES, policy)
    hub.lists = False
    assert describe("owner/name", NAMES, policy) == listed


def test_says_which_file_is_missing(hub, policy):
    fill(hub)
    with pytest.raises(EnvironmentFault, match=f"owner/name has no other.parquet .it has {len(NAMES)} files"):
        describe("owner/name", [NAMES[0], "other.parquet"], policy)
    hub.lists = False
    with pytest.raises(Refused, match=r"owner/name/other.parquet: HTTP 404"):
        describe("owner/name", ["other.parquet"], policy)


def test_a_missing_repository_is_one_line(hub, policy):
    with pytest.raises(Refused, match="owner/none") as caught:
        describe("owner/none", NAMES, policy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("lists", [True, False])
def test_finds_every_file_of_an_exported_split(lists, hub):
    names = [f"all/train/{index:04d}.parquet" for index in range(3)]
    for name in [*names, "all/test/0000.parquet", "all/train/../../escaped/0000.parquet"]:
        hub.add("owner/name", name, b"", revision="refs/convert/parquet")
    hub.lists = lists
    assert [file.filename for file in exported("owner/name", "all/train")] == names
    with pytest.raises(EnvironmentFault, match="no parquet export of all/none"):
        exported("owner/name", "all/none")


def test_a_refused_file_does_not_end_the_listing_of_an_exported_split(hub):
    """Part of a split must not pass for the whole."""
    for index in range(3):
        hub.add("owner/name", f"all/train/{index:04d}.parquet", b"", revision="refs/convert/parquet")
    hub.lists = False
    hub.faults = {"/datasets/owner/name/resolve/refs%2Fconvert%2Fparquet/all/train/0001": "403"}
    with pytest.raises(Refused, match=r"0001\.parquet: HTTP 403 Forbidden: check the name"):
        exported("owner/name", "all/train")


def test_reads_the_environment_at_call_time(monkeypatch, hub):
    assert endpoint() == hub.url
    assert not is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline()


@pytest.mark.parametrize(
    "address", ["hub.example.org", "ftp://hub", "https://", "https://[hub", "http://hub:99999"]
)
def test_an_invalid_endpoint_is_a_users_mistake(address, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError, match="HF_ENDPOINT must be an address like https://"):
        endpoint()

"""What the hub states, and how mirrors differ."""

import hashlib

import pytest

from nanochat.errors import EnvironmentFault
from nanochat.hub import list_files
from nanochat.hub.listing import describe, endpoint, exported, is_offline
from nanochat.hub.transfer import Refused
from tests.hub_server import PAGE, TOKEN

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


def test_git_identifiers_are_no_sha256(hub, policy):
    fill(hub)
    hub.states_hashes = False
    assert {file.sha256 for file in list_files("owner/name", policy=policy).values()} == {None}


def test_a_hub_in_trouble_is_asked_again(hub, policy):
    fill(hub)
    hub.break_share(0.5, seed=2)
    assert len(list_files("owner/name", policy=policy)) == len(NAMES)
    assert any(request.fault for request in hub.requests)


@pytest.mark.parametrize("states_hashes", [True, False])
def test_a_mirror_that_does_not_list_is_asked_file_by_file(states_hashes, hub, policy):
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


def test_reads_the_environment_when_asked(monkeypatch, hub):
    assert endpoint() == hub.url
    assert not is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert is_offline()


@pytest.mark.parametrize(
    "address", ["hub.example.org", "ftp://hub", "https://", "https://[hub", "http://hub:99999"]
)
def test_an_endpoint_that_is_none_is_the_users_mistake(address, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ValueError, match="HF_ENDPOINT must be an address like https://"):
        endpoint()

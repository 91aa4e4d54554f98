"""Models on the hub: publish an exported folder, and read one back by `hf:OWNER/NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat.atomic import file_lock
from nanochat.checkpoint import store
from nanochat.console import say
from nanochat.errors import EnvironmentFault
from nanochat.export.import_model import ImportConfig, run_import
from nanochat.export.incoming import one_line
from nanochat.hub.listing import endpoint
from nanochat.paths import Paths

PREFIX = "hf:"
_REPO = re.compile(r"[\w.-]+/[\w.-]+")
# Neither code nor pickles: what is not fetched cannot be run.
_WANTED = ("config.json", "tokenizer.json", "*.safetensors")


def check_repo(repo: str) -> None:
    """Raise ValueError unless this can be the name of a repository."""
    if not _REPO.fullmatch(repo):
        raise ValueError(f"{repo!r} is not a repository of the hub: write OWNER/NAME")


def push(directory: Path, repo: str) -> str:
    """Publish the files of a folder as a private repository, made if missing; returns its address.

    Raises EnvironmentFault if the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi

    api = HfApi(endpoint())
    with _faults(f"{repo} could not be published"):
        made = api.create_repo(repo, private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=directory, commit_message="Export from nanochat")
    return str(made)


def local_run(model: str, paths: Paths) -> str:
    """`model`, or the run made of the hub's model if it is `hf:OWNER/NAME`: downloaded once, without its code.

    Raises ValueError for a model that cannot be imported, EnvironmentFault if it cannot be downloaded.
    """
    if not model.startswith(PREFIX):
        return model
    repo = model.removeprefix(PREFIX)
    check_repo(repo)
    tag = f"hf-{repo.replace('/', '--')}"
    directory = paths.checkpoints(tag)
    lock = directory.parent / f".{tag}.lock"
    with file_lock(lock, message=f"waiting for another process that imports {repo}"):
        if not store.steps_with_meta(directory):
            run_import(ImportConfig(_fetched(repo), model_tag=tag), paths)
    return tag


def _fetched(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    say(f"downloading {repo}")
    with _faults(f"{repo} could not be downloaded"):
        return Path(snapshot_download(repo, endpoint=endpoint(), allow_patterns=list(_WANTED)))


@contextmanager
def _faults(what: str) -> Iterator[None]:
    """Every error of huggingface_hub and its HTTP library as an EnvironmentFault; they have no common class."""
    import httpx
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        yield
    except (httpx.TransportError, LocalEntryNotFoundError) as error:
        raise EnvironmentFault(
            f"{what}: cannot reach {endpoint()}: check the network, or set HF_ENDPOINT to a mirror"
        ) from error
    except Exception as error:
        raise EnvironmentFault(f"{what}: {one_line(error)} (a private repository needs HF_TOKEN)") from error

"""Where a CORE bundle comes from: the public one, downloaded once, or the user's own folder or zip archive."""

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from nanochat.atomic import sha256_of
from nanochat.console import say
from nanochat.hub import fetch_url
from nanochat.paths import Paths

BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
_LISTING = "core.yaml"


def fetch_bundle(paths: Paths, url: str = BUNDLE_URL) -> Path:
    """`paths.eval_bundle`, downloaded and unpacked if missing. Raises EnvironmentFault if that fails."""
    if not paths.eval_bundle.is_dir():
        archive = fetch_url(url, paths.base / "eval_bundle.zip", check=_check_zip)
        _unpack(archive, paths.eval_bundle, sha256_of(archive))
        archive.unlink()
    return paths.eval_bundle


def own_bundle(path: Path, paths: Paths) -> Path:
    """The folder of the user's own bundle; an archive is unpacked once, below the base directory.

    Raises ValueError if there is neither a folder nor a zip archive with one core.yaml.
    """
    if path.is_dir():
        return path
    if not path.is_file():
        raise ValueError(f"no CORE bundle at {path}: name a folder, or a zip archive of one")
    try:
        _check_zip(path)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    digest = sha256_of(path)
    folder = paths.own_bundle(digest)
    if not folder.is_dir():
        _unpack(path, folder, digest)
    return folder


def _unpack(archive: Path, destination: Path, digest: str) -> None:
    """Unpack beside the destination and rename, so that it is there wholly or not at all.

    No sha256 of a bundle is known in advance, so it is printed for whoever quotes a score.
    """
    say(f"CORE bundle {archive.name}: sha256 {digest} (unpinned: this version knows none to compare it with)")
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent) as folder:
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)  # which keeps every name below the folder
        [listing] = Path(folder).rglob(_LISTING)
        shutil.move(listing.parent, destination)


def _check_zip(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
            listings = [name for name in file.namelist() if PurePosixPath(name).name == _LISTING]
    # Encrypted, of an unknown method, or damaged at any place.
    except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
        raise ValueError(f"it is not a zip archive that can be read: {error}") from None
    if damaged:
        raise ValueError(f"{damaged} in it is damaged")
    if len(listings) != 1:
        found = f"{len(listings)} of them ({', '.join(listings)})" if listings else "none"
        raise ValueError(f"a bundle has one {_LISTING}, and it has {found}")

"""Local model folders and verified downloads from the Hub."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile

from osmnet.utils.checks import check_path, reason, short

# HfHubHTTPError derives from the base error of the HTTP library below, which has changed between versions of the
# client. OSError covers being offline and files that are not in the cache.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
HUB_ERRORS: tuple[type[Exception], ...] = (HTTP_ERROR, HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError)
READ_BYTES = 2**20
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def find_folder(source: str | os.PathLike[str], names: Sequence[str], revision: str | None = None, **hub: Any) -> Path:
    """Return a model's local folder, downloading `names` from the Hub if necessary.

    Checksums are compared at every load; a damaged file is downloaded once more. `hub` takes `cache_dir`, `token` and
    `local_files_only`.

    Raises:
        ValueError: If there is no such model, or a file stays damaged.
    """
    # 1. Use a local folder.
    if not isinstance(source, str | os.PathLike):
        raise ValueError(f"A model is a folder or an id on the Hub, not {type(source).__name__}.")
    if source == "":
        raise ValueError("The path of the model is empty; give a folder or an id on the Hub.")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"revision must be a branch, tag or commit, not {type(revision).__name__}.")
    if hub.get("cache_dir") is not None:
        check_path("cache_dir", hub["cache_dir"])
    if not isinstance(hub.get("token"), str | bool | None):
        raise ValueError(f"token must be a text, True or False, not {type(hub['token']).__name__}.")
    path = Path(os.path.expanduser(check_path("The model", source)))
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"revision={short(revision)} is for models on the Hub, and '{path}' is a local folder.")
        return path
    if path.exists() or path.is_absolute() or not isinstance(source, str) or source.startswith((".", "~")):
        raise ValueError(f"{source} is not a folder; give the folder of a saved model or its id on the Hub.")
    is_offline = hub.get("local_files_only") or constants.HF_HUB_OFFLINE
    api = None if is_offline else HfApi(token=hub.get("token"))

    # 2. Download. The client compares only lengths, so checksums are compared here.
    def download() -> tuple[Path, list[Path]]:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=list(names), **hub))
        return folder, list(_damaged_files(folder, names, api, source))

    try:
        folder, damaged = download()
        if damaged and not is_offline:
            for file in damaged:
                if file.is_symlink():
                    (file.parent / os.readlink(file)).unlink()
                file.unlink()
            folder, damaged = download()
    except HUB_ERRORS as error:
        raise ValueError(explained(error, source, revision)) from error
    if damaged:
        fix = "load it with a connection" if is_offline else "a second download did not either; try again later"
        raise ValueError(f"{damaged[0]} does not have the checksum that the Hub gives in {source!r}; {fix}.")
    return folder


def _damaged_files(folder: Path, names: Sequence[str], api: HfApi | None, repo_id: str) -> Iterator[Path]:
    files = {name: folder / name for name in names if (folder / name).is_file()}
    # The cache names files by checksum, so no connection is needed where symbolic links exist (not on Windows).
    # One step only: the cache may link its own files to a store that several repositories share.
    expected = {name: Path(os.readlink(path)).name for name, path in files.items() if path.is_symlink()}
    unknown = [name for name in files if not CHECKSUM.fullmatch(expected.get(name, ""))]
    if unknown and api is not None:
        try:
            entries = api.get_paths_info(repo_id, unknown, revision=folder.name)
        except HUB_ERRORS:
            entries = []
        for entry in entries:
            if isinstance(entry, RepoFile):
                expected[entry.path] = entry.lfs.sha256 if entry.lfs is not None else entry.blob_id
    for name, path in files.items():
        if CHECKSUM.fullmatch(checksum := expected.get(name, "")) and not _matches(path, checksum):
            yield path


def _matches(path: Path, checksum: str) -> bool:
    is_git = len(checksum) == 40  # SHA-1 for small files, SHA-256 for large ones
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()) if is_git else hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(READ_BYTES):
            digest.update(piece)
    return digest.hexdigest() == checksum


def explained(error: BaseException, repo_id: str, revision: str | None = None) -> str:
    """Turn an error of the Hub client into one sentence with its fix."""
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no folder here and no id of a model on the Hub; check the id, as in name/model."
    if isinstance(error, RevisionNotFoundError):
        return f"The model {repo_id!r} has no revision {revision!r} on the Hub; check its name."
    if isinstance(error, LocalTokenNotFoundError):
        return "You are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, RepositoryNotFoundError | GatedRepoError):
        return (
            f"There is no model {repo_id!r} on the Hub that you may use, and no folder of that name here; check the "
            "id, and log in (`hf auth login`) if it is private."
        )
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return f"HF_HUB_OFFLINE keeps the Hub client from fetching {repo_id!r}; unset it, or give a local folder."
    answer = next((cause for cause in chain if isinstance(cause, HfHubHTTPError)), None)
    if answer is not None:
        status = answer.response.status_code
        fixes = {401: "log in with `hf auth login`, or set HF_TOKEN", 403: "use a token that allows it"}
        return f"The Hub answered {status} when asked for {repo_id!r}; {fixes.get(status, 'try again later')}."
    why = reason(next((cause for cause in chain if isinstance(cause, HTTP_ERROR)), error))
    return f"Cannot fetch {repo_id!r} from the Hub at {constants.ENDPOINT} ({why}); check the connection."

"""What comes from the Hub: whether it arrived as it was sent, and a clear sentence where it did not."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import HfApi, constants
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

# What the Hub client raises. HfHubHTTPError derives from the base error of the HTTP library below it, and that library
# has changed between versions; OSError covers being offline and files that are not in the cache.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
HUB_ERRORS: tuple[type[Exception], ...] = (HTTP_ERROR, HfHubHTTPError, HFValidationError, EntryNotFoundError, OSError)
AT_ONCE = 2**20  # bytes
CHECKSUM = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def checked_download(
    download: Callable[[], Path],
    names: Iterable[str],
    repo_id: str,
    token: str | bool | None,
    local_files_only: bool,
) -> Path:
    """Download files and compare each with its checksum on the Hub; what arrived damaged is fetched once more.

    The client itself compares lengths only. Checksums are those of the Hub: SHA-256 of large files, git's SHA-1 of
    small ones. The cache keeps each file under its checksum, so that this needs no connection; on systems without
    links (Windows, mostly) the Hub is asked, and nothing is compared while it cannot be reached.

    Args:
        download (`Callable`): Downloads what is not in the cache; returns the folder of one commit in it.
        names (`Iterable[str]`): Files in it to compare, where they are there.
        repo_id (`str`): Id of the model.
        token (`str` or `bool`, *optional*): Access token.
        local_files_only (`bool`): Never contact the Hub.

    Returns:
        `Path`: The folder.

    Raises:
        ValueError: If a file is damaged, and cannot be fetched again or is damaged again.
    """
    offline = local_files_only or constants.HF_HUB_OFFLINE
    names = list(names)

    def damaged(folder: Path) -> list[Path]:
        files = {name: folder / name for name in names if (folder / name).is_file()}
        # One step only: the cache may link its own files to a store that several repositories share.
        expected = {name: Path(os.readlink(path)).name for name, path in files.items() if path.is_symlink()}
        unknown = [name for name in files if not CHECKSUM.fullmatch(expected.get(name, ""))]
        if unknown and not offline:
            expected |= _asked(unknown, repo_id, folder.name, token)
        known = {name: expected[name] for name in files if CHECKSUM.fullmatch(expected.get(name, ""))}
        return [files[name] for name, checksum in known.items() if not _matches(files[name], checksum)]

    folder = download()
    found = damaged(folder)
    if found and not offline:
        for path in found:
            if path.is_symlink():
                (path.parent / os.readlink(path)).unlink()
            path.unlink()
        folder = download()
        found = damaged(folder)
    if found:
        again = "load it with a connection" if offline else "nor has it when it is fetched anew; try again later"
        raise ValueError(
            f"{found[0]} does not have the checksum that the Hub gives for it in the model {repo_id!r}; {again}."
        )
    return folder


def _asked(names: list[str], repo_id: str, commit: str, token: str | bool | None) -> dict[str, str]:
    """Checksums by name, as the Hub gives them; none if it cannot be reached."""
    try:
        entries = HfApi(token=token).get_paths_info(repo_id, names, revision=commit)
    except HUB_ERRORS:
        return {}
    files = [entry for entry in entries if isinstance(entry, RepoFile)]
    return {file.path: file.lfs.sha256 if file.lfs is not None else file.blob_id for file in files}


def _matches(path: Path, checksum: str) -> bool:
    is_git = len(checksum) == 40
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode()) if is_git else hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(AT_ONCE):
            digest.update(piece)
    return digest.hexdigest() == checksum


def explained(error: BaseException, repo_id: str, revision: str | None = None, sending: bool = False) -> str:
    """One sentence on why a model cannot be had from the Hub, or sent there, and what to do.

    Args:
        error (`BaseException`): Of the Hub client.
        repo_id (`str`): Id of the model.
        revision (`str`, *optional*): What was asked for.
        sending (`bool`): It was to be sent, not loaded.

    Returns:
        `str`: The sentence.
    """
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    at = f"{repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    missing = "" if sending else f", there is no folder {repo_id!r}, and the model {at} is not whole in the cache"
    otherwise = "" if sending else ", or give a local folder"
    if isinstance(error, HFValidationError):
        here = "" if sending else "no folder here, and "
        return f"{repo_id!r} is {here}no id of a model on the Hub; check the id, which has the form name/model."
    if isinstance(error, RevisionNotFoundError):
        return f"The model {repo_id!r} has no revision {revision!r} on the Hub; check its name."
    if isinstance(error, LocalTokenNotFoundError):
        return "You are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN."
    if isinstance(error, RepositoryNotFoundError | GatedRepoError):
        where = "" if sending else f"folder {repo_id!r} here, and no "
        return (
            f"There is no {where}model {repo_id!r} on the Hub that you may {'change' if sending else 'read'}; "
            "check the id, and log in (`hf auth login`) or give token= if it is private."
        )
    if any(isinstance(cause, OfflineModeIsEnabled) for cause in chain):
        return f"The Hub client is set to work offline{missing}; unset HF_HUB_OFFLINE{otherwise}."
    answered = next((cause for cause in chain if isinstance(cause, HfHubHTTPError)), None)
    if answered is not None:
        status = answered.response.status_code
        hints = {401: "log in with `hf auth login`, or set HF_TOKEN", 403: "your token does not allow it"}
        return f"The Hub answered {status} when asked for {at}; {hints.get(status, 'try again later')}."
    unreached = next((cause for cause in chain if isinstance(cause, HTTP_ERROR)), None)
    if unreached is not None:
        reason = first_line(unreached)
        return (
            f"The Hub ({constants.ENDPOINT}) cannot be reached ({reason}){missing}; check the connection{otherwise}."
        )
    return f"The Hub client gave up on {at} ({first_line(error)}){missing}; check the connection{otherwise}."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

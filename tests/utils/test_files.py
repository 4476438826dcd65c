"""Files that are written whole, or not at all."""

import errno
import os
from pathlib import Path

import pytest

from osmnet.utils import files
from osmnet.utils.files import put_folder_in_place, temporary_folder_in, why, write_whole, written_whole


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fail_at(monkeypatch, call: str, number: int, error: int) -> None:
    """Let the call of a function of `os` with this number, counted from 1, fail, or all (0)."""
    real, made = getattr(os, call), []

    def failing(*arguments, **options):
        made.append(call)
        if number in (0, len(made)):
            raise OSError(error, os.strerror(error))
        return real(*arguments, **options)

    monkeypatch.setattr(files.os, call, failing)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(
    ("call", "number", "is_new"), [("open", 1, False), ("fsync", 1, False), ("replace", 1, False), ("fsync", 2, True)]
)
def test_a_write_that_fails_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, call, number, is_new, error):
    write_whole(tmp_path / "a", b"old")
    with monkeypatch.context() as patch:
        fail_at(patch, call, number, error)
        with pytest.raises(ValueError) as raised:
            write_whole(tmp_path / "a", b"new")
    expected = f"'{tmp_path / 'a'}' cannot be written ({os.strerror(error)}): give a folder with room in which you may"
    assert str(raised.value).startswith(expected)
    assert content(tmp_path) == {"a": b"new" if is_new else b"old"}
    write_whole(tmp_path / "a", b"new")
    assert content(tmp_path) == {"a": b"new"}


def test_a_half_written_file_is_removed(tmp_path, monkeypatch):
    def full(path: Path, content: bytes) -> int:
        with open(path, "wb") as file:
            file.write(content[:1])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_whole(tmp_path / "a", b"old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(ValueError, match="No space left"):
        write_whole(tmp_path / "a", b"new")
    assert content(tmp_path) == {"a": b"old"}


def recorded(monkeypatch) -> list[str]:
    """Names that are synced and renamed, in order."""
    calls: list[str] = []
    sync, replace, rename = files.sync, os.replace, Path.rename

    def name(path) -> str:
        return "part" if Path(path).name.startswith(".") else Path(path).name

    monkeypatch.setattr(files, "sync", lambda path: (calls.append(f"sync {name(path)}"), sync(path)))
    monkeypatch.setattr(files.os, "replace", lambda a, b: (calls.append(f"rename to {name(b)}"), replace(a, b)))
    monkeypatch.setattr(Path, "rename", lambda a, b: (calls.append(f"rename to {name(b)}"), rename(a, b)))
    return calls


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    calls = recorded(monkeypatch)
    write_whole(folder / "a", b"new", seal=lambda path: calls.append("seal"))
    assert calls == ["seal", "sync part", "rename to a", "sync folder"]
    calls.clear()
    with written_whole(folder, last="index") as temporary:
        for each in ("index", "weights"):
            (temporary / each).write_bytes(b"new")
    assert calls == ["sync index", "sync weights", "rename to weights", "rename to index", "sync folder"]
    calls.clear()
    temporary = temporary_folder_in(folder)
    (temporary / "tensors").write_bytes(b"new")
    put_folder_in_place(temporary, folder / "checkpoint")
    assert calls == ["sync tensors", "sync part", "rename to checkpoint", "sync folder"]


@pytest.mark.parametrize("links", [True, False])
def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch, links):
    if not links:
        fail_at(monkeypatch, "link", 0, errno.EPERM)
    folder = tmp_path / "model"
    names = ("a/config", "a/weights", "b/config", "index")

    def save(text: bytes, *more: str) -> None:
        with written_whole(folder, last="index") as temporary:
            for name in (*names, *more):
                (temporary / name).parent.mkdir(exist_ok=True)
                (temporary / name).write_bytes(text)

    save(b"old")
    old = content(folder)
    for number in range(1, 6 if links else 10):
        with monkeypatch.context() as patch:
            fail_at(patch, "replace", number, errno.EIO)
            with pytest.raises(
                ValueError, match="Cannot save in '.*model' .Input/output error.; free space or choose"
            ):
                save(b"new", "c/config")
        assert content(folder) == old and sorted(path.name for path in folder.iterdir()) == ["a", "b", "index"]
    save(b"new", "c/config")
    assert set(content(folder).values()) == {b"new"}


def test_a_new_folder_that_cannot_be_filled_is_removed(tmp_path):
    with pytest.raises(ValueError, match="Input/output error"), written_whole(tmp_path / "deep" / "model"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "Kein Platz", "/tmp/.a.part"), "No space left on device"),
        (files.SafetensorError("Error while serializing: I/O error: x (os error 28)"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "not all could be"),
        (RuntimeError("CUDA error:\nout of memory"), "CUDA error: out of memory"),
        (OSError(), "OSError"),
    ],
)
def test_reasons_are_those_of_the_system(error, words):
    assert why(error).startswith(words) and "\n" not in why(error)

"""Disk space of a service."""

import os
import shutil
import threading

from osmnet.serving.disk import DiskBudget


def test_folders_that_come_and_go_are_no_error(tmp_path):
    (tmp_path / "kept").write_bytes(bytes(2**20))
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            (tmp_path / "a" / "b" / "c").mkdir(parents=True)
            (tmp_path / "a" / "b" / "c" / "file").touch()
            shutil.rmtree(tmp_path / "a")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {DiskBudget([tmp_path], 10).used_mb() for _ in range(1000)} == {1.0}
    finally:
        over.set()
        thread.join()


def test_old_files_of_passing_folders_are_removed(tmp_path):
    """Gradio forgets files of uploads that it refused."""
    kept, passing = tmp_path / "kept", tmp_path / "passing"
    for folder in (kept, passing):
        folder.mkdir()
        for name, age in (("old", 100), ("new", 0)):
            (folder / name).write_bytes(bytes(2**20))
            moment = os.stat(folder / name).st_mtime - age
            os.utime(folder / name, (moment, moment))
    assert DiskBudget([kept], 10, [passing], keep_seconds=50).used_mb() == 3.0
    assert [path.name for path in passing.iterdir()] == ["new"] and len(list(kept.iterdir())) == 2

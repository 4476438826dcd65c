"""Disk space of a service."""

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

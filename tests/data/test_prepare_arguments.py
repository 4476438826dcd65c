"""The table, the list of videos and the options are checked before any work begins."""

from pathlib import Path

import pytest

from osmnet.cli.prepare import main
from osmnet.data import prepare
from osmnet.data.segments import Known, Options


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,speech\na.mp4,yes\n", "line 2: the column 'file' is missing or empty"),
        ("file,speech\na.mp4,yes\nb.mp4,maybe\n", "line 3: speech is 'maybe'"),
        ("file,av_offset_frames\na.mp4,early\n", "line 2: av_offset_frames is 'early', not a whole number"),
    ],
)
def test_table_errors_name_the_line(tmp_path: Path, text: str, message: str):
    table = tmp_path / "clips.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=message):
        prepare.read_table(table)


def test_table_columns_may_be_missing_or_empty(tmp_path: Path):
    path = tmp_path / "clips.csv"
    path.write_text("file,speaker,av_offset_frames\na.mp4,ann,\nb.mp4,,-3\n")
    table = prepare.read_table(path)
    assert table == {"a.mp4": Known(speaker="ann"), "b.mp4": Known(av_offset=-3)}


def test_videos_are_checked_before_work_begins(tmp_path: Path):
    with pytest.raises(ValueError, match="no file or folder"):
        prepare.find_videos([tmp_path / "missing.mp4"])
    with pytest.raises(ValueError, match="no files"):
        prepare.find_videos([tmp_path])
    for name in ("a.b.mp4", ".hidden.mp4", "a_b.mov"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="both become the clip 'a_b'"):
        prepare.find_videos([tmp_path])
    (tmp_path / "a_b.mov").unlink()
    assert prepare.find_videos([tmp_path, tmp_path / "a.b.mp4"]) == [tmp_path / "a.b.mp4"]


@pytest.mark.parametrize(
    "wrong", [{"min_seconds": 30}, {"min_seconds": 0.1}, {"max_turn": 120}, {"min_face": 0}, {"min_sharpness": -1}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]):
    with pytest.raises(ValueError, match="must be"):
        Options(**wrong)


def test_the_number_of_workers_is_checked(tmp_path: Path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ValueError, match="--workers must be at least 1, not 0"):
        main([str(tmp_path), "--out", str(tmp_path / "set"), "--workers", "0"])
    assert not (tmp_path / "set").exists()

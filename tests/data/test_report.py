"""The summary of what was dropped."""

from pathlib import Path

from osmnet.data.report import _reasons, dropped_text


def test_a_long_list_of_what_was_dropped_is_cut(tmp_path: Path):
    rows = [
        {"status": "dropped", "source": f"{k}.mp4", "first_frame": 25 * k, "reason": f"the face is {k} pixels high"}
        for k in range(100)
    ]
    lines = dropped_text([{"status": "kept"}, *rows], tmp_path / "report.html").splitlines()
    assert lines[1] == "    100      0.0  the face is N pixels high"
    assert lines[2] == "0.mp4 at 0.0 s: the face is 0 pixels high" and len(lines) == 23
    strange = {"status": "dropped", "source": "\x1b[31m\n.mp4", "reason": "no face was found"}
    assert dropped_text([strange], tmp_path).splitlines()[-1] == "?[31m?.mp4: no face was found"
    assert lines[-1] == f"and 80 more, see {tmp_path / 'report.html'}"


def test_reasons_are_grouped_without_their_numbers_only():
    rows = [{"reason": f"'{name}' is 4.{name} s, for example MP4.", "seconds": 1} for name in (1, 2)]
    assert _reasons(rows) == [("'…' is N s, for example MP4.", 2, 2)]

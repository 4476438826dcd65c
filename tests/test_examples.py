"""The script that goes all the way from raw videos to measured weights, as a newcomer runs it."""

import shutil
import subprocess
import sys
from pathlib import Path

from osmnet.media.video_reader import read_frames
from tests.support.dummies import read_json


def test_train_tiny_goes_from_raw_videos_to_measured_weights(repository, subprocess_environment, tmp_path):
    bash = shutil.which("bash")
    assert bash, "the script needs bash"
    environment = subprocess_environment | {"OSMNET": f"{sys.executable} -m osmnet"}
    run = subprocess.run(
        [bash, repository / "examples" / "train_tiny.sh", "", tmp_path / "run"],
        env=environment, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    out: Path = tmp_path / "run"
    assert (out / "data" / "report.html").is_file()
    assert (out / "weights" / "model_index.json").is_file()
    frames = [list(read_frames(out / "video" / f"take-{take}.mp4")) for take in (1, 2)]
    assert len(frames[0]) == len(frames[1]) > 180  # the whole speech
    report = read_json(out / "report" / "report.json")
    means = report["mean_by_length"]
    assert means["oracle"]["ssim"] > means["static"]["ssim"]

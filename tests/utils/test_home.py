"""Users without a home folder: caches of libraries, our own, and the key."""

import subprocess
import sys
from pathlib import Path

import pytest

from osmnet.utils.files import cache_folder

# A user whom the system does not know. Everything but one line of Python is as in a real run.
NOBODY = """
import pwd, sys

def unknown(number):
    raise KeyError(number)

pwd.getpwuid = unknown
"""


@pytest.fixture
def nobody(subprocess_environment, tmp_path):
    """Run Python code as such a user, in an empty folder."""
    kept = {"PATH", "PYTHONPATH", "OMP_NUM_THREADS"}
    temporary, folder = tmp_path / "temporary", tmp_path / "folder"
    environment = {name: value for name, value in subprocess_environment.items() if name in kept}
    environment |= {"TMPDIR": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    for each in (temporary, folder):
        each.mkdir()

    def run(code: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", NOBODY + code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert not list(temporary.glob("osmnet-*")), "caches are left"
        return done

    run.folder = folder
    return run


@pytest.mark.integration
def test_a_take_is_made_and_nothing_else(nobody, tiny_folder, repository):
    portrait = repository / "examples" / "portrait_astronaut.jpg"
    done = nobody(
        f"""
from pathlib import Path
from osmnet.cli import main
from tests.support.dummies import speech, write_wav
write_wav(Path("voice.wav"), speech(0.4))
sys.exit(main(["generate", {str(portrait)!r}, "voice.wav", "--model", {str(tiny_folder)!r}, "-n", "1",
               "--size", "64", "--crop", "--no-sheet", "--seed", "1"]))
"""
    )
    assert sorted(path.name for path in nobody.folder.iterdir()) == ["out", "voice.wav"]
    told = [line for line in done.stderr.splitlines() if line.startswith("osmnet:")]
    assert told == [
        "osmnet: The signing key lasts only as long as this process (there is no home folder); set OSMNET_HOME to a "
        "folder that lasts."
    ]


@pytest.mark.integration
def test_a_key_of_the_process_is_known_as_own(nobody):
    nobody(
        """
from PIL import Image
from osmnet.provenance.manifest import sign
from osmnet.provenance.verify import verify
Image.new("RGB", (8, 8)).save("a.png")
sign("a.png")
assert verify("a.png").is_own
"""
    )


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their cache folders are elsewhere")
def test_a_lent_cache_is_not_our_own(monkeypatch, tmp_path):
    monkeypatch.delenv("OSMNET_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "osmnet-no-home-x"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder().is_relative_to(tmp_path / "home")  # the precision chosen must not change with the process
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "osmnet"

"""Keys and certificates that sign: one's own, this installation's, and those that cannot be used."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from PIL import Image

from osmnet.cli import main
from osmnet.pipelines.talking_head import TalkingHeadPipeline
from osmnet.provenance import key
from osmnet.provenance.manifest import check_signing, sign
from osmnet.provenance.verify import verify
from tests.support import certificates
from tests.support.certificates import PEM, issue, set_all, write_pair
from tests.support.dummies import speech, write_wav


@pytest.fixture(scope="module")
def authority():
    return certificates.authority()


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(path)
    return path


@pytest.mark.parametrize("given_as", ["file", "text"])
@pytest.mark.parametrize("kind", ["p-384", "ed25519", "rsa"])
def test_an_own_certificate_signs_and_is_trusted_by_who_trusts_its_issuer(
    tmp_path, monkeypatch, authority, picture, capsys, kind, given_as
):
    private = {
        "p-384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    issuer_key, issuer = authority
    environment = write_pair(tmp_path / "own", private, issue(private, issuer_key, issuer))
    if given_as == "text":
        environment = {name: Path(file).read_text() for name, file in environment.items()}
    set_all(monkeypatch, environment)
    sign(picture)
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(issuer.public_bytes(PEM))
    verdict = verify(picture)
    assert (verdict.state, verdict.is_trusted, verdict.signer) == ("valid", False, "Studio")
    assert verify(picture, anchors).is_trusted
    monkeypatch.setenv("OSMNET_TRUST_ANCHORS", str(anchors))
    assert verify(picture).is_trusted and not verify(picture).is_own
    assert main(["verify", str(picture)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_an_expired_certificate_signs_nothing(tmp_path, monkeypatch, authority, picture):
    private = ec.generate_private_key(ec.SECP256R1())
    set_all(monkeypatch, write_pair(tmp_path / "old", private, issue(private, *authority, days=-1)))
    before = picture.read_bytes()
    with pytest.raises(ValueError, match="cannot be signed") as error:
        sign(picture)
    assert "\n" not in str(error.value) and picture.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.png"]


def test_keys_that_cannot_be_used_are_named(tmp_path, monkeypatch, authority, picture):
    private, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pair = write_pair(tmp_path / "pair", private, issue(other, *authority))
    before = picture.read_bytes()
    for environment, words in (
        (pair, "do not belong together"),
        (pair | {key.KEY: str(tmp_path / "none.pem")}, "cannot be read"),
        (pair | {key.KEY: pair[key.CERTIFICATE]}, "no key or no certificate"),
        ({key.KEY: pair[key.KEY], key.CERTIFICATE: ""}, "set both, or neither"),
    ):
        set_all(monkeypatch, environment)
        with pytest.raises(ValueError, match=words):
            sign(picture)
    set_all(monkeypatch, {name: Path(file).read_text() for name, file in pair.items()})
    with pytest.raises(ValueError, match="OSMNET_SIGNING_KEY' do not belong together") as error:
        sign(picture)
    assert "BEGIN" not in str(error.value)
    assert picture.read_bytes() == before
    with pytest.raises(ValueError, match="trust anchors"):
        verify(picture, tmp_path / "none.pem")


def test_the_installation_has_one_key_that_only_its_user_may_read(tmp_path, monkeypatch):
    home = tmp_path / "deep" / "home"
    monkeypatch.setenv("OSMNET_HOME", str(home))
    first = key.signing_credential()
    assert key.signing_credential() == first
    [path] = home.glob("*.pem")
    if os.name == "posix":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(home.stat().st_mode) == 0o700
        path.chmod(0o644)
        key.signing_credential()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"PRIVATE" not in repr(first).encode()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="signing.pem"):
        key.signing_credential()


@pytest.mark.integration
def test_processes_that_come_at_once_have_the_same_key(tmp_path):
    code = "from osmnet.provenance.key import signing_credential as c; print(hash(c().key))"
    environment = os.environ | {"OSMNET_HOME": str(tmp_path / "home"), "PYTHONHASHSEED": "0"}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert len({run.communicate()[0] for run in runs}) == 1 and not any(run.returncode for run in runs)


def test_where_no_key_can_be_kept_one_lives_as_long_as_the_process(tmp_path, monkeypatch, picture):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OSMNET_HOME", str(tmp_path / "file"))
    key._process_key.cache_clear()
    with pytest.warns(UserWarning, match="The signing key lasts only as long as this process .*signing.pem' cannot"):
        sign(picture)
    assert (verify(picture).state, verify(picture).is_own) == ("valid", True)


def _damaged_key(tmp_path, authority):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / key.FILE_NAME).write_text("no key")
    return {key.HOME: str(tmp_path / "home")}, "no key or no certificate"


def _expired_certificate(tmp_path, authority):
    private = ec.generate_private_key(ec.SECP256R1())
    return write_pair(tmp_path / "old", private, issue(private, *authority, days=-1)), "cannot be signed"


def _unreachable_service(tmp_path, authority):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # free, and nobody listens on it any more
    return {key.TIMESTAMP: f"http://127.0.0.1:{port}"}, f"time stamp service http://127.0.0.1:{port}"


@pytest.mark.parametrize("fault", [_damaged_key, _expired_certificate, _unreachable_service])
def test_what_cannot_sign_shows_before_the_rendering(tmp_path, monkeypatch, authority, lazy, fault):
    environment, words = fault(tmp_path, authority)
    output = lazy()
    check_signing()
    set_all(monkeypatch, environment)
    monkeypatch.setattr(type(output), "chunks", lambda *_: pytest.fail("it renders"))
    with pytest.raises(ValueError, match=words) as error:
        output.save(tmp_path / "takes")
    assert "\n" not in str(error.value) and not (tmp_path / "takes").exists()


def test_a_damaged_key_shows_before_a_model_is_loaded(tmp_path, monkeypatch, authority, capsys, repository):
    set_all(monkeypatch, _damaged_key(tmp_path, authority)[0])
    monkeypatch.setattr(TalkingHeadPipeline, "from_pretrained", lambda *_, **__: pytest.fail("a model is loaded"))
    portrait = repository / "examples" / "portrait_astronaut.jpg"
    sound = write_wav(tmp_path / "voice.wav", speech(0.4))
    assert main(["generate", str(portrait), str(sound), "--output", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("osmnet: There is no key or no certificate to be read in") and "signing.pem" in line
    assert not (tmp_path / "out").exists()

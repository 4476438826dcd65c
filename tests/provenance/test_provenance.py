"""Marks of what is generated: the label that is seen, the manifest that is signed, and what `osmnet verify` says."""

import datetime
import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from osmnet.cli import main
from osmnet.face.pose import similarity_from_pose
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.pipelines.osm_net.head_motion import absolute_pose
from osmnet.provenance import key
from osmnet.provenance.label import Label, label_for
from osmnet.provenance.manifest import STATEMENT, sign
from osmnet.provenance.verify import verify
from tests.support.dummies import SAMPLING_RATE, SEED, portrait, speech

PEM = serialization.Encoding.PEM


@pytest.fixture(scope="module")
def lazy(tiny):
    source = tiny.encode_source(portrait(), size=128)
    sound = tiny.encode_speech(speech(0.8), SAMPLING_RATE)

    def make(**options):
        generator = torch.Generator().manual_seed(SEED)
        return tiny(source, sound, num_videos=2, generator=generator, output_type="lazy", **options)

    return make


@pytest.fixture(scope="module")
def saved(lazy, tmp_path_factory):
    """Takes as they are saved when nothing is said, and again with consent and without label."""
    folder = tmp_path_factory.mktemp("saved")
    lazy().save(folder / "plain")
    lazy().save(folder / "consent", consent=True, label=False)
    return folder


@pytest.fixture
def take(saved, tmp_path):
    path = tmp_path / "take.mp4"
    path.write_bytes((saved / "plain" / "take-1.mp4").read_bytes())
    return path


def boxes(content: bytes) -> dict[bytes, tuple[int, int]]:
    """Where the boxes of an MP4 file begin and end."""
    found, position = {}, 0
    while position < len(content):
        size, kind = struct.unpack(">I4s", content[position : position + 8])
        found[kind] = (position, position + size)
        position += size
    return found


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def manifest_of(path):
    with c2pa.Reader(str(path)) as reader:
        return reader.get_active_manifest()


# The label


@pytest.mark.parametrize("size", [(256, 256), (64, 64), (720, 1280), (1280, 720), (97, 131)])
def test_the_label_is_seen_on_any_picture_and_changes_nothing_else(size):
    label = Label(size)
    left, top, right, bottom = label.box
    assert 0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]
    assert right - left <= size[1] / 2 and bottom - top >= 10
    for shade in (0, 127, 255):
        frames = np.full((2, 3, *size, 3), shade, np.uint8)
        label.draw(frames)
        marked = frames[:, :, top:bottom, left:right]
        assert np.ptp(marked.astype(int)) > 140, "white letters on a dark field, whatever the picture"
        marked[:] = shade
        assert (frames == shade).all()


def test_the_label_survives_the_video(saved, lazy):
    marked, bare = (
        np.stack(list(read_frames(saved / name / "take-1.mp4"))).astype(int) for name in ("plain", "consent")
    )
    output = lazy()
    left, top, right, bottom = label_for(output.source, output.head_pose).box
    difference = np.abs(marked - bare).mean((0, 3))
    assert difference[top:bottom, left:right].mean() > 40
    difference[max(top - 8, 0) : bottom + 8, max(left - 8, 0) : right + 8] = 0
    assert difference.mean() < 1
    letters = marked[:, top:bottom, left:right].mean((0, 3))
    assert letters.max() > 200 and letters.min() < 130


def test_the_label_stays_clear_of_the_face(tiny, lazy):
    source = lazy().source
    for seed in range(4):
        motion = tiny.sample_motion(
            tiny.encode_speech(speech(4), SAMPLING_RATE),
            epsilon=2,
            motion_scale=2,
            generator=torch.Generator().manual_seed(seed),
        )
        poses = absolute_pose(source, motion)
        left, top, right, bottom = label_for(source, poses).box
        face = similarity_from_pose(poses[0], source.size).place(source.fit.shape)[..., :2]  # (frames, 478, 2)
        inside = ((face > (left, top)) & (face < (right, bottom))).all(-1)
        assert not inside.any()


def test_the_label_goes_where_the_face_is_not():
    def face(x0, y0, x1, y1):
        return [np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)]

    lower_left = Label((256, 256)).box
    upper_left = Label((256, 256), face(0, 100, 256, 256)).box
    lower_right = Label((256, 256), face(0, 0, 120, 256)).box
    assert lower_left[:1] == upper_left[:1] and upper_left[3] < 100 < lower_left[1]
    assert lower_right[0] > 120 and lower_right[1] == lower_left[1]
    short = Label((256, 256), face(40, 0, 256, 256)).box  # only a narrow strip is free
    assert short[2] < 40 and short[2] - short[0] < (lower_left[2] - lower_left[0]) / 2


def test_streams_and_live_sessions_are_labelled_unless_it_is_switched_off(tiny, lazy):
    output = lazy()
    box = label_for(output.source, output.head_pose).box
    marked, bare = (
        np.concatenate([chunk.frames for chunk in lazy().stream(**option)], 1) for option in ({}, {"label": False})
    )
    changed = np.argwhere((marked != bare).any((0, 1, 4)))
    assert changed.min(0).tolist() == [box[1], box[0]] and changed.max(0).tolist() == [box[3] - 1, box[2] - 1]
    bare, marked = (
        tiny.live(output.source, sampling_rate=SAMPLING_RATE, still=True, label=label).feed(speech(0.6))
        for label in (False, True)
    )
    share = (bare != marked).any((0, 3)).mean()
    assert 0.01 < share < 0.1


# The manifest


def test_every_file_with_pictures_is_signed(saved):
    for path in [*saved.rglob("*.mp4"), *saved.rglob("*.png")]:
        verdict = verify(path)
        assert (verdict.state, verdict.is_own, verdict.is_trusted) == ("valid", True, False)
        assert verdict.is_ai_generated and verdict.generator.startswith("osmnet ")
    assert len(list(saved.rglob("*.png"))) == 2


def test_the_manifest_says_how_it_was_made_and_nothing_of_whom(saved, own_home):
    for name, consent in (("plain", None), ("consent", True)):
        path = saved / name / "take-2.mp4"
        manifest = manifest_of(path)
        [actions] = [entry for entry in manifest["assertions"] if entry["label"].startswith("c2pa.actions")]
        [made] = actions["data"]["actions"]
        assert made["action"] == "c2pa.created" and made["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
        [record] = [entry["data"] for entry in manifest["assertions"] if entry["label"] == "osmnet.generation"]
        assert record == ({"consent": "declared", "statement": STATEMENT} if consent else {"consent": "not declared"})
        assert verify(path).consent is consent
        assert not {"thumbnail", "ingredients", "title"} & set(manifest)
        first, last = boxes(path.read_bytes())[b"uuid"]
        store = path.read_bytes()[first:last]
        assert len(store) < 10_000  # no room for a picture
        for word in (b"take-", str(own_home).encode(), b"thumbnail", b"JFIF", os.uname().nodename.encode()):
            assert word not in store
    with Image.open(saved / "plain" / "sheet.png") as sheet:
        sheet.load()
    assert "thumbnail" not in manifest_of(saved / "plain" / "sheet.png")


def test_consent_is_given_or_left_out(lazy, tmp_path, saved):
    for consent in (False, "yes", 1):
        with pytest.raises(ValueError, match="consent must be True"):
            lazy().save(tmp_path / "out", consent=consent)
    assert not (tmp_path / "out").exists()


def test_any_picture_can_be_signed_and_nothing_else(tmp_path, saved):
    picture = Image.fromarray(portrait(64))
    for name in ("a.png", "a.jpg", "a.webp", "a.gif"):
        picture.save(tmp_path / name)
        before = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        sign(tmp_path / name, consent=True)
        assert np.array_equal(np.asarray(Image.open(tmp_path / name).convert("RGB")), before)
        verdict = verify(tmp_path / name)
        assert (verdict.state, verdict.consent) == ("valid", True), name
        assert "thumbnail" not in manifest_of(tmp_path / name)
    (tmp_path / "a.txt").write_text("not a picture at all")
    for act in (sign, verify):
        with pytest.raises(ValueError, match="no MP4, MOV, PNG, JPEG, WebP or GIF"):
            act(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="cannot be signed"):
        sign(tmp_path / "nothing.mp4")
    with pytest.raises(ValueError, match="There is no file"):
        verify(tmp_path / "nothing.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.gif", "a.jpg", "a.png", "a.txt", "a.webp"]


def test_a_video_appears_only_when_it_is_signed(tmp_path):
    def fail(path):
        assert path != tmp_path / "a.mp4" and path.stat().st_size > 0
        raise ValueError("no signature today")

    with pytest.raises(ValueError, match="today"), VideoWriter(tmp_path / "a.mp4", (32, 32), seal=fail) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    assert list(tmp_path.iterdir()) == []


# What verify says


@pytest.mark.parametrize("where", ["moov", "mdat", "what it says", "the signature's start"])
def test_one_changed_byte_is_found(take, where):
    content = take.read_bytes()
    first, last = boxes(content).get(where.encode(), (0, 0))
    position = {
        "what it says": content.index(b"trainedAlgorithmicMedia"),
        "the signature's start": content.index(b"installation"),  # in the certificate
    }.get(where, (first + last) // 2)
    flip(take, position)
    verdict = verify(take)
    assert verdict.state == "altered"
    assert ("picture, sound or metadata was changed" in verdict.sentence) is (where in ("moov", "mdat"))
    flip(take, position)
    assert verify(take).state == "valid"


def test_no_changed_byte_of_the_manifest_makes_the_check_fail(take):
    content = take.read_bytes()
    first, last = boxes(content)[b"uuid"]
    states = set()
    for position in range(first + 8, last, 37):
        flip(take, position)
        states.add(verify(take).state)  # padding and salt are not covered; nothing else may be raised
        flip(take, position)
    assert "altered" in states


def test_what_is_cut_short_or_added_is_found(take):
    content = take.read_bytes()
    for damaged in (content[:-100], content[:2000], content + struct.pack(">I4s", 16, b"skin") + b"hidden!!"):
        take.write_bytes(damaged)
        assert verify(take).state == "altered"


@pytest.mark.parametrize("how", ["copied", "encoded"])
def test_what_was_stripped_or_encoded_again_is_unsigned_but_may_say_so(take, how, tmp_path):
    new = tmp_path / "new.mp4"
    if how == "encoded":
        with VideoWriter(new, (128, 128)) as writer:
            writer.write(np.stack(list(read_frames(take))))
    else:
        with av.open(str(take)) as source, av.open(str(new), "w") as target:
            target.metadata.update(source.metadata)
            streams = {stream: target.add_stream_from_template(stream) for stream in source.streams}
            for packet in source.demux():
                if packet.dts is not None:
                    packet.stream = streams[packet.stream]
                    target.mux(packet)
    verdict = verify(new)
    assert verdict.state == "unsigned" and verdict.signer is None
    assert verdict.is_ai_generated is (how == "copied")  # the comment comes along when streams are copied
    assert ("AI-generated talking head" in verdict.sentence) is (how == "copied")


def test_another_key_is_told_from_our_own(take, tmp_path, monkeypatch):
    monkeypatch.setenv("OSMNET_HOME", str(tmp_path / "elsewhere"))
    assert (verify(take).state, verify(take).is_own) == ("valid", False)
    assert not (tmp_path / "elsewhere").exists()  # looking makes no key
    forged = tmp_path / "forged.mp4"
    with VideoWriter(forged, (32, 32), seal=sign) as writer:  # same names on the certificate, another key
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    assert verify(forged).is_own
    monkeypatch.undo()
    assert verify(forged).state == "valid" and not verify(forged).is_own and verify(take).is_own


def test_the_command_has_an_exit_status_for_each_state(take, capsys, tmp_path):
    def run(*arguments):
        status = main(["verify", *map(str, arguments)])
        return status, capsys.readouterr()

    status, said = run(take)
    assert status == 0 and said.out.startswith("valid: ") and "this installation's own key" in said.out
    assert "does not prove" in said.out and "not declared" in said.out
    status, said = run(take, "--json")
    assert json.loads(said.out)["state"] == "valid"
    first, last = boxes(take.read_bytes())[b"mdat"]
    flip(take, (first + last) // 2)
    assert run(take)[0] == 1
    with VideoWriter(tmp_path / "bare.mp4", (32, 32)) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    assert run(tmp_path / "bare.mp4")[0] == 3
    status, said = run(tmp_path / "none.mp4")
    assert status == 2 and said.out == "" and said.err.startswith("osmnet: ") and said.err.count("\n") == 1


# Keys


def issue(private, issuer_key=None, issuer=None, days=30, common="Studio"):
    """A certificate of a kind that a signer may have; without an issuer, of a certificate authority."""
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "A \x1b[31mstudio"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )
    is_issuer = issuer is None
    signer = private if is_issuer else issuer_key
    now = datetime.datetime.now(datetime.UTC)
    flags = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
    usage = x509.KeyUsage(
        digital_signature=not is_issuer, key_cert_sign=is_issuer, crl_sign=is_issuer, encipher_only=False,
        decipher_only=False, **flags,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name if is_issuer else issuer.subject)
        .public_key(private.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=60)).not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_issuer, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )  # fmt: skip
    if not is_issuer:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(signer, None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256())


def write_pair(folder, private, *certificates):
    folder.mkdir(exist_ok=True)
    pem = private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "certificate.pem").write_bytes(b"".join(each.public_bytes(PEM) for each in certificates))
    return {key.KEY: str(folder / "key.pem"), key.CERTIFICATE: str(folder / "certificate.pem")}


def set_all(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="module")
def authority():
    private = ec.generate_private_key(ec.SECP256R1())
    return private, issue(private, common="Authority")


def small_video(path):
    with VideoWriter(path, (32, 32)) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    return path


@pytest.mark.parametrize("given_as", ["file", "text"])
@pytest.mark.parametrize("kind", ["p-384", "ed25519", "rsa"])
def test_an_own_certificate_signs_and_is_trusted_by_who_trusts_its_issuer(
    tmp_path, monkeypatch, authority, capsys, kind, given_as
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
    path = small_video(tmp_path / "a.mp4")
    sign(path)
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(issuer.public_bytes(PEM))
    verdict = verify(path)
    assert (verdict.state, verdict.is_trusted, verdict.signer) == ("valid", False, "Studio")
    assert verify(path, anchors).is_trusted
    monkeypatch.setenv("OSMNET_TRUST_ANCHORS", str(anchors))
    assert verify(path).is_trusted and not verify(path).is_own
    assert main(["verify", str(path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_certificate_that_has_run_out_is_no_change_of_the_file(tmp_path, monkeypatch, authority):
    private = ec.generate_private_key(ec.SECP256R1())
    set_all(monkeypatch, write_pair(tmp_path / "old", private, issue(private, *authority, days=-1)))
    path = small_video(tmp_path / "a.mp4")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be signed") as error:
        sign(path)
    assert "\n" not in str(error.value) and path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["a.mp4"]


def test_keys_that_cannot_be_used_are_named(tmp_path, monkeypatch, authority, take):
    private, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    pair = write_pair(tmp_path / "pair", private, issue(other, *authority))
    before = take.read_bytes()
    for environment, words in (
        (pair, "do not belong together"),
        (pair | {key.KEY: str(tmp_path / "none.pem")}, "cannot be read"),
        (pair | {key.KEY: pair[key.CERTIFICATE]}, "no key or no certificate"),
        ({key.KEY: pair[key.KEY], key.CERTIFICATE: ""}, "set both, or neither"),
    ):
        set_all(monkeypatch, environment)
        with pytest.raises(ValueError, match=words):
            sign(take)
    set_all(monkeypatch, {name: Path(file).read_text() for name, file in pair.items()})
    with pytest.raises(ValueError, match="OSMNET_SIGNING_KEY' do not belong together") as error:
        sign(take)
    assert "BEGIN" not in str(error.value)
    assert take.read_bytes() == before
    with pytest.raises(ValueError, match="trust anchors"):
        verify(take, tmp_path / "none.pem")


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


def test_processes_that_come_at_once_have_the_same_key(tmp_path):
    code = "from osmnet.provenance.key import signing_credential as c; print(hash(c().key))"
    environment = os.environ | {"OSMNET_HOME": str(tmp_path / "home"), "PYTHONHASHSEED": "0"}
    runs = [subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    assert len({run.communicate()[0] for run in runs}) == 1 and not any(run.returncode for run in runs)


def test_where_no_key_can_be_kept_one_lives_as_long_as_the_process(tmp_path, monkeypatch, take):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("OSMNET_HOME", str(tmp_path / "file"))
    path = small_video(tmp_path / "a.mp4")
    sign(path)
    assert (verify(path).state, verify(path).is_own) == ("valid", True)

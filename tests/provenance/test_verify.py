"""The manifest that is signed, and what `osmnet verify` says of it."""

import json
import os
import struct

import av
import c2pa
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image

from osmnet.cli import main
from osmnet.media.video_reader import read_frames
from osmnet.media.video_writer import VideoWriter
from osmnet.provenance.manifest import STATEMENT, sign
from osmnet.provenance.verify import quoted, verify
from tests.support.certificates import PEM, authority, issue, set_all, write_pair
from tests.support.dummies import portrait, speech

COMMENT = "AI-generated talking head, made with osmnet"


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A small signed video with sound and the comment of a take."""
    path = tmp_path_factory.mktemp("signed") / "take.mp4"
    with VideoWriter(path, (64, 64), waveform=speech(0.4), comment=COMMENT, seal=sign) as writer:
        writer.write(np.stack([portrait(64)] * 10))
    return path


@pytest.fixture
def take(signed, tmp_path):
    path = tmp_path / "take.mp4"
    path.write_bytes(signed.read_bytes())
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


@pytest.mark.integration
def test_every_file_with_pictures_is_signed(saved):
    for path in [*saved.rglob("*.mp4"), *saved.rglob("*.png")]:
        verdict = verify(path)
        assert (verdict.state, verdict.is_own, verdict.is_trusted) == ("valid", True, False)
        assert verdict.is_ai_generated and verdict.generator.startswith("osmnet ")
    assert len(list(saved.rglob("*.png"))) == 2


@pytest.mark.integration
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


@pytest.mark.integration
def test_consent_is_given_or_left_out(lazy, tmp_path):
    for consent in (False, "yes", 1):
        with pytest.raises(ValueError, match="consent must be True"):
            lazy().save(tmp_path / "out", consent=consent)
    assert not (tmp_path / "out").exists()


def test_any_picture_can_be_signed_and_nothing_else(tmp_path):
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


@pytest.mark.parametrize("kind", [b"free", b"skip"])
def test_appended_free_space_goes_unnoticed_as_documented(take, kind, repository):
    """C2PA leaves free space out of its hash."""
    take.write_bytes(take.read_bytes() + struct.pack(">I4s", 16, kind) + b"hidden!!")
    assert verify(take).state == "valid"
    assert (
        "A `free` or\n  `skip` box appended to a video leaves it valid"
        in (repository / "docs/provenance.md").read_text()
    )


@pytest.mark.parametrize("how", ["copied", "encoded"])
def test_what_was_stripped_or_encoded_again_is_unsigned_but_may_say_so(take, how, tmp_path):
    new = tmp_path / "new.mp4"
    if how == "encoded":
        with VideoWriter(new, (64, 64)) as writer:
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


def run(capsys, *arguments):
    status = main(["verify", *map(str, arguments)])
    return status, capsys.readouterr()


def test_the_command_has_an_exit_status_for_each_state(take, capsys, tmp_path):
    status, said = run(capsys, take)
    assert status == 0 and said.out.startswith("valid: ") and "this installation's own key" in said.out
    assert "does not prove" in said.out and "not declared" in said.out
    status, said = run(capsys, take, "--json")
    assert status == 0 and json.loads(said.out)["state"] == "valid"
    first, last = boxes(take.read_bytes())[b"mdat"]
    flip(take, (first + last) // 2)
    assert run(capsys, take)[0] == 1
    with VideoWriter(tmp_path / "bare.mp4", (32, 32)) as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    assert run(capsys, tmp_path / "bare.mp4")[0] == 3
    status, said = run(capsys, tmp_path / "none.mp4")
    assert status == 2 and said.out == "" and said.err.startswith("osmnet: ") and said.err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    explained = " ".join(capsys.readouterr().out.split())
    assert all(words in explained for words in ("0 valid", "4 valid", "1 altered", "3 unsigned", "2 not a file"))


def test_a_valid_file_of_an_unknown_signer_has_a_status_of_its_own(take, tmp_path, monkeypatch, capsys):
    authorities = {name: authority(name) for name in ("One", "Another")}
    for name, (_, certificate) in authorities.items():
        (tmp_path / f"{name}.pem").write_bytes(certificate.public_bytes(PEM))
    private = ec.generate_private_key(ec.SECP256R1())
    with monkeypatch.context() as patch:
        set_all(patch, write_pair(tmp_path / "pair", private, issue(private, *authorities["One"])))
        sign(take)
    status, said = run(capsys, take)
    assert status == 4 and said.out.startswith("valid, but by an unknown signer: ")
    assert run(capsys, take, "--trust", tmp_path / "Another.pem")[0] == 4  # trusts somebody else
    status, said = run(capsys, take, "--trust", tmp_path / "One.pem")
    assert status == 0 and said.out.startswith("valid: ") and 'Signer (trusted): "Studio"' in said.out
    status, said = run(capsys, take, "--json")
    verdict = json.loads(said.out)
    assert status == 4 and verdict["state"] == "valid" and not (verdict["is_own"] or verdict["is_trusted"])


def test_names_on_certificates_cannot_imitate_our_words(take, tmp_path, monkeypatch, capsys):
    name = 'Me" (trusted)\n  Signer (trusted): \x1b[1mBBC\u202e'
    private = ec.generate_private_key(ec.SECP256R1())
    with monkeypatch.context() as patch:
        set_all(patch, write_pair(tmp_path / "pair", private, issue(private, *authority(), common=name)))
        sign(take)
    status, said = run(capsys, take)
    assert status == 4 and "\x1b" not in said.out and "\u202e" not in said.out
    [line] = [line for line in said.out.splitlines() if "Signer (" in line]
    assert line == '  Signer (not trusted): "Me\\" (trusted)?  Signer (trusted): ?[1mBBC?"'


def test_a_comment_of_a_stranger_is_quoted(tmp_path, capsys):
    path = tmp_path / "bare.mp4"
    with VideoWriter(path, (32, 32), comment=f'{COMMENT}". Signed and trusted \x1b[2J') as writer:
        writer.write(np.zeros((3, 32, 32, 3), np.uint8))
    status, said = run(capsys, path)
    assert status == 3 and f'"{COMMENT}\\". Signed and trusted ?[2J"' in said.out
    assert len(quoted("x" * 10_000)) < 300

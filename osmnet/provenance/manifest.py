"""The C2PA manifest: a signed record of how a file was made."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

import osmnet
from osmnet.provenance.key import TIMESTAMP, signing_credential
from osmnet.utils.checks import check_path, reason, short
from osmnet.utils.files import discard, put_in_place, temporary_path, why
from osmnet.utils.profiling import span

ASSERTION = "osmnet.generation"
# Consent of those shown is recorded as declared or not, without who declared it and for whom.
DECLARED, NOT_DECLARED = "declared", "not declared"
STATEMENT = "Whoever made this declared that the people who are seen and heard in it have agreed."
SETTINGS = {
    # A thumbnail would be a person's face.
    "builder": {"thumbnail": {"enabled": False}},
    # Verify at once: signatures by a certificate of the wrong kind would be refused everywhere later.
    "verify": {"verify_after_sign": True, "verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
LARGE = 2**25  # bytes; larger files are hashed in pieces (C2PA's Merkle tree): 18 MB of memory for 140 MB, not 284
FOR_LARGE = {"core": {"backing_store_memory_threshold_in_mb": 16, "merkle_tree_chunk_size_in_kb": 1024}}
HEAD_BYTES = 16  # enough to recognise a file's type


def sign(path: str | os.PathLike[str], consent: bool | None = None) -> None:
    """Sign a picture or video in place as made by a trained model.

    Sign last: every later change breaks the signature. The manifest holds no inputs, names or pictures.

    Args:
        path (`str` or `os.PathLike`): An MP4, MOV, PNG, JPEG, WebP or GIF file, whatever its name.
        consent (`bool`, *optional*): `True` declares that the people who are seen and heard in it have agreed.
            Nothing is declared by default.

    Raises:
        ValueError: If the file cannot be read, signed or written (it is then unchanged), or `consent` is invalid.
    """
    check_consent(consent)
    path = check_path("path", path)
    try:
        seal(path, consent)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be signed ({why(error)}); check free space and permissions.") from error


def seal(path: Path, consent: bool | None = None) -> None:
    """Sign as `sign`, but raise `OSError` for a fault of the disk."""
    temporary = temporary_path(path)
    try:
        # In its own thread: otherwise Ctrl-C would be raised, and lost, in a callback of the signer.
        with span("sign"), ThreadPoolExecutor(1, "osmnet sign") as pool:
            pool.submit(_sign, path, temporary, consent).result()
        put_in_place(temporary, path)
    finally:
        discard(temporary)


def check_signing() -> None:
    """Sign a picture of one pixel in memory, so that a fault shows before anything is rendered.

    Raises:
        ValueError: If the key, its certificate or the time stamp service cannot be used.
    """
    picture = io.BytesIO()
    Image.new("RGB", (1, 1)).save(picture, "png")
    with ThreadPoolExecutor(1, "osmnet sign") as pool:  # as in `sign`
        pool.submit(_sign_stream, "A picture", "image/png", picture, io.BytesIO(), len(picture.getvalue())).result()


def check_consent(consent: Any) -> None:
    """Raise `ValueError` unless consent is `True` or `None`."""
    if consent is not None and consent is not True:
        raise ValueError(
            f"consent must be True (those who are seen and heard agreed) or left out, not {short(consent)}; without "
            "their consent, do not make the video."
        )


def media_type(path: Path) -> str | None:
    """Return a file's media type by its first bytes, `None` if it cannot be signed.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head[4:8] == b"ftyp":
        return "video/quicktime" if head[8:10] == b"qt" else "video/mp4"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    kinds = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}
    return next((kind for magic, kind in kinds.items() if head.startswith(magic)), None)


def _sign(path: Path, signed: Path, consent: bool | None) -> None:
    kind = media_type(path)
    if kind is None:
        raise ValueError(f"'{path}' cannot be signed: it is no MP4, MOV, PNG, JPEG, WebP or GIF file.")
    with open(path, "rb") as source, open(signed, "x+b") as target:
        witness = _Witness(target)
        try:
            _sign_stream(f"'{path}'", kind, source, witness, path.stat().st_size, consent)
        finally:
            if witness.error is not None:
                raise witness.error


class _Witness:
    """A file that keeps its first error, which the signer reports as "UntrackedPointer"."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.error = file, None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._file, name)

        def call(*arguments: Any) -> Any:
            try:
                return method(*arguments)
            except OSError as error:
                self.error = self.error or error
                raise

        return call


def _sign_stream(
    name: str, kind: str, source: BinaryIO, target: BinaryIO | _Witness, length: int, consent: bool | None = None
) -> None:
    import c2pa  # a library of 23 MB, which only signing and verifying need

    credential = signing_credential()
    record = {"consent": DECLARED if consent else NOT_DECLARED} | ({"statement": STATEMENT} if consent else {})
    definition = {
        "claim_generator_info": [{"name": "osmnet", "version": osmnet.__version__}],
        "assertions": [{"label": ASSERTION, "data": record, "created": True}],
    }
    address = os.environ.get(TIMESTAMP) or None
    settings = SETTINGS | (FOR_LARGE if length > LARGE else {})
    try:
        info = c2pa.C2paSignerInfo(credential.algorithm, credential.certificates, credential.key, address)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Builder(definition, context=context) as builder,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
            builder.sign(signer, kind, source, target)
    except c2pa.C2paError as error:
        at = f", or the time stamp service {address} (unset {TIMESTAMP})" if address else ""
        raise ValueError(
            f"{name} cannot be signed ({reason(error)}); check the certificate and the disk{at}."
        ) from error

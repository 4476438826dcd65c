"""The C2PA manifest: what a file says of its own making, signed, so that a change shows."""

from __future__ import annotations

import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import osmnet
from osmnet.provenance.key import TIMESTAMP, signing_credential
from osmnet.utils.profiling import span

ASSERTION = "osmnet.generation"
# What the consent of those who are shown is recorded as: that somebody declared it, not who, nor of whom.
DECLARED, NOT_DECLARED = "declared", "not declared"
STATEMENT = "Whoever made this declared that the people who are seen and heard in it have agreed."
SETTINGS = {
    # The picture of a manifest would be the face of a person.
    "builder": {"thumbnail": {"enabled": False}},
    # Read back at once: what a certificate of the wrong kind has signed would be refused by everybody later.
    "verify": {"verify_after_sign": True, "verify_trust": False, "remote_manifest_fetch": False, "ocsp_fetch": False},
}
# Of larger files, pieces of a megabyte are hashed one by one (a Merkle tree, as C2PA has it), and what is not needed
# is not held: signing 140 MB then takes 18 MB of memory instead of 284.
LARGE = 2**25  # bytes
FOR_LARGE = {"core": {"backing_store_memory_threshold_in_mb": 16, "merkle_tree_chunk_size_in_kb": 1024}}
HEAD_BYTES = 16  # of a file, that tell what it is


def sign(path: str | os.PathLike[str], consent: bool | None = None) -> None:
    """Sign a picture or video as made by a trained model; the signed file takes the place of the one that is there.

    The last thing to be done to a file: whatever is changed afterwards breaks the signature. Nothing of the inputs, no
    name of a file or a person and no picture goes into the manifest.

    Args:
        path (`str` or `os.PathLike`): An MP4, MOV, PNG, JPEG, WebP or GIF file, whatever its name.
        consent (`bool`, *optional*): `True`: whoever makes it declares that the people who are seen and heard in it
            have agreed. Not given: nothing was declared.

    Raises:
        ValueError: If the file cannot be read, signed or written, or `consent` is something else; it is then left as
            it was.
    """
    check_consent(consent)
    path = Path(path)
    temporary = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.part")
    try:
        # In a thread of its own: Ctrl-C would else arise in a function that the signer calls, and get lost there.
        with span("sign"), ThreadPoolExecutor(1, "osmnet sign") as pool:
            pool.submit(_sign, path, temporary, consent).result()
        temporary.replace(path)
    except OSError as error:
        raise ValueError(
            f"'{path}' cannot be signed ({error.strerror or error}); see to room and permissions."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def check_consent(consent: Any) -> None:
    """Refuse what is neither `True` nor `None`."""
    if consent is not None and consent is not True:
        raise ValueError(
            f"consent must be True (those who are seen and heard agreed) or left out, not {consent!r}; without their "
            "consent, do not make the video."
        )


def media_type(path: Path) -> str | None:
    """The type of a file by its first bytes, of those that can be signed; `None` for others.

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
    import c2pa  # here: it loads a library of 23 MB, which only those who sign or verify wait for

    kind = media_type(path)
    if kind is None:
        raise ValueError(f"'{path}' cannot be signed: it is no MP4, MOV, PNG, JPEG, WebP or GIF file.")
    credential = signing_credential()
    record = {"consent": DECLARED if consent else NOT_DECLARED} | ({"statement": STATEMENT} if consent else {})
    definition = {
        "claim_generator_info": [{"name": "osmnet", "version": osmnet.__version__}],
        "assertions": [{"label": ASSERTION, "data": record, "created": True}],
    }
    address = os.environ.get(TIMESTAMP) or None
    settings = SETTINGS | (FOR_LARGE if path.stat().st_size > LARGE else {})
    try:
        info = c2pa.C2paSignerInfo(credential.algorithm, credential.certificates, credential.key, address)
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Context.from_dict(settings) as context,
            c2pa.Builder(definition, context=context) as builder,
            open(path, "rb") as source,
            open(signed, "x+b") as target,
        ):
            builder.set_intent(c2pa.C2paBuilderIntent.CREATE, c2pa.C2paDigitalSourceType.TRAINED_ALGORITHMIC_MEDIA)
            builder.sign(signer, kind, source, target)
    except c2pa.C2paError as error:
        at = f", or the time stamp service {address} (unset {TIMESTAMP})" if address else ""
        raise ValueError(
            f"'{path}' cannot be signed ({str(error).splitlines()[0]}); see to the certificate and the disk{at}."
        ) from error

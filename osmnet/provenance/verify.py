"""Verification of signed files."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from osmnet.media.container import local_file, open_container
from osmnet.provenance.key import local_issuer
from osmnet.provenance.label import TEXT
from osmnet.provenance.manifest import ASSERTION, DECLARED, media_type
from osmnet.utils.checks import check_path, reason

TRUST = "OSMNET_TRUST_ANCHORS"
# Failures that concern the signer and not the file: codes of the C2PA specification 2.2.
ABOUT_SIGNER = ("signingCredential.untrusted", "signingCredential.expired", "claimSignature.outsideValidity")
HASHES = ("bmff", "data", "boxes", "collection")  # C2PA's kinds of content hashes
MAX_QUOTED = 200  # characters
MAX_ANCHORS = 2**24  # bytes; all authorities of a browser have 2**18
GENERATED = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")


@dataclass(frozen=True)
class Verdict:
    """Result of `verify`; texts from the file are untrusted.

    Attributes:
        state (`str`): `"valid"`: as it was signed; `"altered"`: changed since, or damaged; `"unsigned"`: without a
            manifest, which most kinds of editing remove.
        sentence (`str`): The state and its reason in words.
        signer (`str`, *optional*): Name on the certificate; proves nothing unless trusted.
        signed_at (`str`, *optional*): Time from a time stamp service, if one was used.
        is_own (`bool`): Signed by this installation's key.
        is_trusted (`bool`): The certificate leads to one of the given anchors.
        is_ai_generated (`bool`): The manifest, else the comment, declares the file generated. `False` proves nothing.
        generator (`str`, *optional*): Program that the manifest names.
        consent (`bool`, *optional*): `True` if the manifest declares consent.
    """

    state: Literal["valid", "altered", "unsigned"]
    sentence: str
    signer: str | None = None
    signed_at: str | None = None
    is_own: bool = False
    is_trusted: bool = False
    is_ai_generated: bool = False
    generator: str | None = None
    consent: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes as JSON can hold them."""
        return asdict(self)


def verify(path: str | os.PathLike[str], trust_anchors: str | os.PathLike[str] | None = None) -> Verdict:
    """Check a file against its manifest, offline.

    Args:
        path (`str` or `os.PathLike`): An MP4, MOV, PNG, JPEG, WebP or GIF file.
        trust_anchors (`str` or `os.PathLike`, *optional*): PEM file with certificates of signers or issuers you
            trust; by default the one that `OSMNET_TRUST_ANCHORS` names.

    Returns:
        `Verdict`: Its `state` is `"valid"`, `"altered"` or `"unsigned"`.

    Raises:
        ValueError: If there is no such file, or it is of another kind.
    """
    # 1. Read the manifest.
    path = check_path("path", path)
    local_file(path, "picture or video")
    try:
        kind = media_type(path)
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}); check its permissions.") from error
    if kind is None:
        raise ValueError(f"'{path}' is no MP4, MOV, PNG, JPEG, WebP or GIF file; give a picture or a video.")
    anchors = _anchors(trust_anchors)
    try:
        store, state = _read(path, kind, anchors)
    except _Damaged as error:
        return Verdict("altered", f"It is damaged or was cut short, so its content is unknown ({error}).")
    if store is None:
        return _unsigned(path)
    manifest = store["manifests"].get(store["active_manifest"])
    if manifest is None:
        return Verdict("altered", "Its manifest was changed after it was signed and is unreadable.")
    # 2. Check that the content is unchanged.
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = [entry["code"] for entry in results.get("failure", []) if entry["code"] not in ABOUT_SIGNER]
    passed = {entry["code"] for entry in results.get("success", [])}
    # No failure is not enough: the signature and the hash of the content must have been checked and found right.
    is_whole = "claimSignature.validated" in passed and bool(passed & {f"assertion.{h}Hash.match" for h in HASHES})
    claims = _claims(store, manifest)
    if failures or not is_whole:
        content = all("Hash.mismatch" in code for code in failures) and bool(failures)
        what = "Its picture, sound or metadata was" if content else "Its manifest was"
        return Verdict("altered", f"{what} changed after it was signed ({', '.join(failures) or state}).", **claims)
    # 3. Check the signer.
    is_trusted = anchors is not None and state == "Trusted"
    issuer = local_issuer()
    is_own = issuer is not None and _read(path, kind, issuer)[1] == "Trusted"
    expired = any(entry["code"] in ABOUT_SIGNER[1:] for entry in results.get("failure", []))
    late = " The certificate has expired, and no time stamp shows that it was signed before." if expired else ""
    return Verdict("valid", f"It is as it was signed.{late}", is_own=is_own, is_trusted=is_trusted, **claims)


def quoted(text: str) -> str:
    """Quote untrusted text on one line, without terminal codes."""
    shown = text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}…"
    return json.dumps("".join(letter if letter.isprintable() else "?" for letter in shown), ensure_ascii=False)


class _Damaged(Exception):
    """The file ends early."""


def _read(path: Path, kind: str, anchors: bytes | None) -> tuple[dict[str, Any] | None, str]:
    """Return the validation report (`None` without manifests) and its state."""
    import c2pa

    settings: dict[str, Any] = {"verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}}
    if anchors is not None:
        settings |= {"trust": {"trust_anchors": anchors.decode()}}
    try:
        with c2pa.Context.from_dict(settings) as context, open(path, "rb") as file:
            reader = c2pa.Reader.try_create(kind, file, context=context)
            if reader is None:
                return None, ""
            with reader:
                return json.loads(reader.json()), str(reader.get_validation_state())
    except (c2pa.C2paError, ValueError) as error:  # also texts that are not UTF-8, or no JSON
        raise _Damaged(reason(error)) from error


def _anchors(given: str | os.PathLike[str] | None) -> bytes | None:
    if given is None or given == "":
        given = os.environ.get(TRUST)
    if not given:
        return None
    path = check_path("trust_anchors", given)
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"The trust anchors '{path}' are no file; give a PEM file.")
        with path.open("rb") as file:
            content = file.read(MAX_ANCHORS)
    except OSError as error:
        raise ValueError(f"The trust anchors '{given}' cannot be read ({error.strerror}); give a PEM file.") from error
    if b"BEGIN CERTIFICATE" not in content or not content.isascii():
        raise ValueError(f"There is no certificate in '{given}'; give a PEM file of the signers you trust.")
    return content


def _claims(store: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
    sources = [  # of the whole history
        str(action.get("digitalSourceType", ""))
        for entry in store["manifests"].values()
        for assertion in entry.get("assertions", [])
        if assertion.get("label", "").startswith("c2pa.actions")
        for action in assertion.get("data", {}).get("actions", [])
    ]
    records = [entry["data"] for entry in manifest.get("assertions", []) if entry.get("label") == ASSERTION]
    by = (manifest.get("claim_generator_info") or [{}])[0]
    signature = manifest.get("signature_info", {})
    return {
        "signer": signature.get("common_name") or signature.get("issuer"),
        "signed_at": signature.get("time"),
        "is_ai_generated": any(source.rpartition("/")[2] in GENERATED for source in sources),
        "generator": " ".join(filter(None, (by.get("name"), by.get("version")))) or None,
        "consent": True if any(record.get("consent") == DECLARED for record in records) else None,
    }


def _unsigned(path: Path) -> Verdict:
    comment = ""
    with contextlib.suppress(ValueError), open_container(path, "video", "") as container:
        comment = container.metadata.get("comment", "")
    if comment.startswith(TEXT):
        return Verdict("unsigned", f"It has no signature, but a comment: {quoted(comment)}", is_ai_generated=True)
    return Verdict("unsigned", "It has no signature, so nothing is known about its origin.")

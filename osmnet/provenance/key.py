"""The signing key: from the environment, or this installation's own."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock

from osmnet.utils.files import discard, put_in_place, why

CERTIFICATE, KEY, TIMESTAMP = "OSMNET_SIGNING_CERTIFICATE", "OSMNET_SIGNING_KEY", "OSMNET_TIMESTAMP_URL"
HOME = "OSMNET_HOME"
FILE_NAME = "signing.pem"
ORGANISATION = "osmnet (made by the program itself, identity not checked)"
YEARS = 30  # a signature cannot be renewed, so the certificate must outlive the videos
CLAIM_SIGNING = x509.ObjectIdentifier("1.3.6.1.4.1.62558.2.1")  # C2PA's own key usage
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}


@dataclass(frozen=True)
class Credential:
    """A key with its certificates.

    Attributes:
        algorithm (`str`): C2PA's name: `"es256"`, `"es384"`, `"es512"`, `"ps256"` or `"ed25519"`.
        key (`bytes`): Private key, PEM.
        certificates (`bytes`): Certificate of the key and those up to its issuer, PEM.
    """

    algorithm: str
    key: bytes
    certificates: bytes

    def __repr__(self) -> str:
        return f"Credential({self.algorithm!r})"  # without the key, since this may be logged


def signing_credential() -> Credential:
    """Return the signing key, making this installation's own if necessary.

    `OSMNET_SIGNING_CERTIFICATE` (the key's own certificate first) and `OSMNET_SIGNING_KEY` (without a password) are
    paths of PEM files or PEM text. Without them, the key is `signing.pem` in `data_folder()`. Where that cannot be
    written, it lasts as long as the process, with a warning.

    Raises:
        ValueError: If a file cannot be read or used.
    """
    given = [bool(os.environ.get(name)) for name in (CERTIFICATE, KEY)]
    if any(given) != all(given):
        raise ValueError(f"{CERTIFICATE} and {KEY} belong together; set both, or neither.")
    if all(given):
        (key, key_name), (certificate, name) = _pem(KEY), _pem(CERTIFICATE)
        return _credential(key, certificate, f"{name}' or '{key_name}")
    try:
        path = data_folder() / FILE_NAME
    except RuntimeError:
        return _for_this_process("there is no home folder")
    return _stored(path) or _made(path)


def local_issuer() -> bytes | None:
    """Return the issuer's certificate (PEM) of this installation's key, `None` before there is a key."""
    local = None
    with contextlib.suppress(ValueError, RuntimeError):
        local = _stored(data_folder() / FILE_NAME)
    local = local or (_process_key() if _process_key.cache_info().currsize else None)
    if local is None:
        return None
    return x509.load_pem_x509_certificates(local.certificates)[-1].public_bytes(serialization.Encoding.PEM)


def data_folder() -> Path:
    """Return osmnet's folder of this user: `OSMNET_HOME`, or the system's default.

    Raises:
        RuntimeError: If there is neither `OSMNET_HOME` nor a home folder.
    """
    if named := os.environ.get(HOME):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "osmnet"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "osmnet"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "osmnet"


def _stored(path: Path) -> Credential | None:
    if not path.is_file():
        return None
    content = _read(path)
    if os.name == "posix" and path.stat().st_mode & 0o077:
        with contextlib.suppress(OSError):  # of another user
            path.chmod(0o600)
    return _credential(content, content, str(path))


def _made(path: Path) -> Credential:
    temporary = path.with_name(f".{path.name}.part")  # one name, so that the next run sweeps it
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(path.with_name(f"{path.name}.lock")):  # concurrent processes get the same key
            if not path.exists():
                temporary.unlink(missing_ok=True)  # of a process that was killed
                key, certificates = _new_key()
                try:
                    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                        file.write(key + certificates)
                    put_in_place(temporary, path)
                finally:
                    discard(temporary)
    except OSError as error:
        return _for_this_process(f"'{path}' cannot be written: {why(error)}")
    return _stored(path) or _for_this_process(f"'{path}' was removed")


def _for_this_process(reason: str) -> Credential:
    if not _process_key.cache_info().currsize:
        warnings.warn(
            f"The signing key lasts only as long as this process ({reason}); set {HOME} to a folder that lasts.",
            stacklevel=2,
        )
    return _process_key()


@lru_cache(maxsize=1)
def _process_key() -> Credential:
    key, certificates = _new_key()
    return _credential(key, certificates, "the key of this process")


def _new_key() -> tuple[bytes, bytes]:
    """Make a key, its certificate and an issuer's, PEM."""
    # The issuer's key is discarded, so nobody else can have a certificate from it.
    key, issuer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = [_name("key of one installation"), _name("issuer for one installation")]
    own = _certificate(names[0], key, names[1], issuer, is_issuer=False)
    root = _certificate(names[1], issuer, names[1], issuer, is_issuer=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return private, own.public_bytes(pem) + root.public_bytes(pem)


def _name(common: str) -> x509.Name:
    # No name of a person or a machine: the certificate is in every video.
    parts = ((NameOID.ORGANIZATION_NAME, ORGANISATION), (NameOID.COMMON_NAME, f"osmnet, {common}"))
    return x509.Name([x509.NameAttribute(kind, text) for kind, text in parts])


def _certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer_name: x509.Name,
    issuer: ec.EllipticCurvePrivateKey,
    is_issuer: bool,
) -> x509.Certificate:
    """Make a certificate (C2PA specification 2.2, section 14.5)."""
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only",
         "decipher_only"), False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
        .not_valid_after(now.replace(year=now.year + YEARS, day=min(now.day, 28)))
        .add_extension(x509.BasicConstraints(ca=is_issuer, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=not is_issuer, key_cert_sign=is_issuer, crl_sign=is_issuer, **usage),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()), critical=False)
    )
    if not is_issuer:
        purposes = x509.ExtendedKeyUsage([CLAIM_SIGNING, ExtendedKeyUsageOID.EMAIL_PROTECTION])
        builder = builder.add_extension(purposes, critical=False)
    return builder.sign(issuer, hashes.SHA256())


def _pem(variable: str) -> tuple[bytes, str]:
    """Return PEM text, and a name for messages without secrets."""
    value = os.environ[variable]
    if value.lstrip().startswith("-----BEGIN"):
        return value.encode(), variable
    return _read(Path(value)), value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"'{path}' cannot be read ({error.strerror}), but it signs the videos. Fix it.") from error


def _credential(key: bytes, certificates: bytes, where: str) -> Credential:
    try:
        private = serialization.load_pem_private_key(key, password=None)
        chain = x509.load_pem_x509_certificates(certificates)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"There is no key or no certificate to be read in '{where}' (PEM, without a password). Fix the file, or "
            "remove it."
        ) from error
    if private.public_key() != chain[0].public_key():
        raise ValueError(f"The key and the first certificate in '{where}' do not belong together; give a pair.")
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        algorithm = CURVES[private.curve.name]
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(private, rsa.RSAPrivateKey):
        algorithm = "ps256"
    else:
        raise ValueError(f"The key in '{where}' is of a kind that C2PA does not support; use P-256, Ed25519 or RSA.")
    pem = serialization.Encoding.PEM
    private_pem = private.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Credential(algorithm, private_pem, b"".join(certificate.public_bytes(pem) for certificate in chain))

"""Keys and certificates as a signer of videos may have them."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from osmnet.provenance import key

PEM = serialization.Encoding.PEM


def issue(private, issuer_key=None, issuer=None, days=30, common="Studio"):
    """Make a certificate; without an issuer, that of a certificate authority."""
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


def authority(common="Authority"):
    """Make a certificate authority: its key and its certificate, for `issue`."""
    private = ec.generate_private_key(ec.SECP256R1())
    return private, issue(private, common=common)


def write_pair(folder, private, *certificates):
    """Write a key and its certificates and return the environment that makes osmnet sign with them."""
    folder.mkdir(exist_ok=True)
    pem = private.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "certificate.pem").write_bytes(b"".join(each.public_bytes(PEM) for each in certificates))
    return {key.KEY: str(folder / "key.pem"), key.CERTIFICATE: str(folder / "certificate.pem")}


def set_all(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

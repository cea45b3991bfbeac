"""Certificates of the tests' own, to sign with."""

from __future__ import annotations

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
USES += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def certificate(key, issuer_key, *, ca: bool = False, days: int = 1) -> bytes:
    def name(of_ca: bool) -> x509.Name:
        common = x509.NameAttribute(NameOID.COMMON_NAME, "Root" if of_ca else "Signer")
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), common])

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name(ca)).issuer_name(name(True)).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - 9 * day).not_valid_after(now + days * day)
    builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    uses = dict.fromkeys(USES, False) | {"key_cert_sign" if ca else "digital_signature": True}
    builder = builder.add_extension(x509.KeyUsage(**uses), critical=True)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    signed = builder.sign(issuer_key, None if isinstance(issuer_key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM)


def pem(key, form=serialization.PrivateFormat.TraditionalOpenSSL) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def made_signing(days: int = 1) -> tuple[bytes, bytes]:
    """A chain of certificates that ends, or has ended, so many days from now, and its key."""
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    return certificate(own, root, days=days) + certificate(root, root, ca=True), pem(own)

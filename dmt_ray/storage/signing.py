"""Content Credentials (C2PA): results are signed with the user's own certificate, and recognised by what was signed.

Needs the extra ``c2pa``. Works offline: no timestamp authority is asked, no certificate status, no remote manifest.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from dmt_ray import __version__
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage.provenance import VOCABULARY

_MIME_TYPES = {
    **{"png": "image/png", "png16": "image/png", "jpeg": "image/jpeg"},
    **{"webp": "image/webp", "gif": "image/gif", "tiff16": "image/tiff"},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # a thumbnail of the parent would show the old picture
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}
#: The assertion that tells which row of which run a signed picture is.
_RESULT = "dmt_ray.result"


class SigningError(DmtError):
    """A result could not be signed; the message says why."""


@dataclass(frozen=True)
class Signable:
    """A picture to sign, and what the signature says of it."""

    data: bytes
    """The encoded picture."""
    image_format: str
    """``png``, ``png16``, ``jpeg``, ``webp``, ``gif`` or ``tiff16``."""
    run: str
    """Fingerprint of the run that made it."""
    digital_source_type: str | None
    """How it came to be: a term of the IPTC's vocabulary."""

    @property
    def result(self) -> dict[str, str]:
        """What the signature says of the run and of the bytes that were signed."""
        return {"run": self.run, "image_sha256": hashlib.sha256(self.data).hexdigest()}


@dataclass(frozen=True)
class Signer:
    """A certificate with its private key; see ``load_signer``."""

    certificate: bytes
    """PEM: the signer's own certificate first, then those up to its root."""
    key: bytes = field(repr=False)
    """PKCS #8 in PEM."""
    algorithm: str
    """As C2PA calls it, such as ``es256``."""
    own: bytes = field(repr=False)
    """The signer's own certificate in DER."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the signer's own certificate, in hexadecimal."""
        return hashlib.sha256(self.own).hexdigest()

    def check(self, image_format: str) -> None:
        """See that pictures of a format can be signed, by signing one.

        Raises:
            SettingsError: they cannot; says why.
        """
        if image_format not in _MIME_TYPES:
            raise SettingsError(
                f"Pictures of the format {image_format!r} cannot be signed, only {', '.join(_MIME_TYPES)}."
            )
        small = io.BytesIO()
        Image.new("RGB", (1, 1)).save(small, _MIME_TYPES[image_format].removeprefix("image/").upper())
        try:
            self.sign(Signable(small.getvalue(), image_format, "", None))
        except SigningError as error:
            raise SettingsError(f"The certificate and the key cannot sign. {error}") from error

    def sign(self, picture: Signable) -> bytes:
        """Return a picture with a signed C2PA manifest: edited, by what program, in which run, and how.

        Two signatures of one picture differ, as signatures do.

        Raises:
            SigningError: the library refuses; says why.
        """
        import c2pa

        action: dict[str, Any] = {"action": "c2pa.edited", "softwareAgent": _program()}
        if picture.digital_source_type is not None:
            action["digitalSourceType"] = VOCABULARY + picture.digital_source_type
        manifest = {
            "claim_generator_info": [_program()],
            "assertions": [
                {"label": "c2pa.actions", "data": {"actions": [action]}},
                {"label": _RESULT, "data": picture.result},
            ],
        }
        signed = io.BytesIO()
        try:
            info = c2pa.C2paSignerInfo(self.algorithm, self.certificate, self.key, None)
            with (
                _context() as context,
                c2pa.Signer.from_info(info) as signer,
                c2pa.Builder.from_json(json.dumps(manifest), context) as builder,
            ):
                builder.set_intent(c2pa.C2paBuilderIntent.EDIT)  # the unsigned picture is the parent
                builder.sign(signer, _MIME_TYPES[picture.image_format], io.BytesIO(picture.data), signed)
        except c2pa.C2paError as error:
            reason = " ".join(str(error).split())[:300]
            raise SigningError(f"The result could not be signed: {reason}.") from error
        return signed.getvalue()

    def has_signed(self, data: bytes, picture: Signable) -> bool:
        """Tell whether a file is a picture that was signed with this certificate, unchanged since.

        Parameters:
            data: the file's content.
            picture: the unsigned picture.
        """
        import c2pa

        if self.own not in data:
            return False
        try:
            with (
                _context() as context,
                c2pa.Reader(_MIME_TYPES[picture.image_format], io.BytesIO(data), context=context) as reader,
            ):
                if reader.get_validation_state() not in ("Valid", "Trusted"):
                    return False
                said = json.loads(reader.json())
        except c2pa.C2paError:
            return False
        manifest = said["manifests"][said["active_manifest"]]
        if manifest["signature_info"].get("cert_serial_number") != str(self._serial_number()):
            return False
        return {"label": _RESULT, "data": picture.result} in (
            {"label": each["label"], "data": each.get("data")} for each in manifest.get("assertions", [])
        )

    def _serial_number(self) -> int:
        from cryptography import x509

        return x509.load_der_x509_certificate(self.own).serial_number


def load_signer(certificate: bytes, key: bytes) -> Signer:
    """Return what signs with a certificate and its private key.

    Parameters:
        certificate: PEM: the signer's own certificate first, then those up to its root.
        key: PEM, without a passphrase.

    Raises:
        SettingsError: a package is missing, or the two cannot be used; never quotes them.
    """
    try:
        import c2pa  # noqa: F401
        from cryptography import x509
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
    except ImportError as error:
        raise SettingsError(
            "Signing needs the packages c2pa and cryptography: pip install 'dmt-ray[c2pa]'."
        ) from error
    try:
        private = serialization.load_pem_private_key(key, None)
    except (TypeError, ValueError) as error:
        raise SettingsError("The key to sign with is no private key in PEM, or has a passphrase.") from error
    try:
        own = x509.load_pem_x509_certificates(certificate)[0]
        public = own.public_key()
    except (ValueError, IndexError) as error:
        raise SettingsError("The certificate to sign with is no certificate in PEM.") from error
    if public != private.public_key():
        raise SettingsError("The certificate to sign with is not of the key: the signer's own must come first.")
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        algorithm = _CURVES[private.curve.name]
    elif isinstance(private, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        algorithm = "ps256"
    else:
        raise SettingsError(
            "The key to sign with is of no kind that C2PA allows: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of "
            "at least 2048 bits."
        )
    pkcs8 = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Signer(certificate, pkcs8, algorithm, own.public_bytes(serialization.Encoding.DER))


def _program() -> dict[str, str]:
    return {"name": "dmt_ray", "version": __version__}


@contextmanager
def _context() -> Iterator[Any]:
    """Give the library's settings: it writes no thumbnail and asks nobody."""
    import c2pa

    with c2pa.Settings.from_dict(_SETTINGS) as settings, c2pa.Context(settings=settings) as context:
        yield context

"""Content Credentials (C2PA): ``sign_image`` signs a result with the user's own certificate.

Needs the extra ``c2pa``. Works offline: no timestamp authority is asked, no certificate status, no remote manifest.
"""

from __future__ import annotations

import io
import json
from typing import Any

from PIL import Image

from dmt_ray import __version__
from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.storage.metadata import read_metadata
from dmt_ray.storage.provenance import VOCABULARY
from dmt_ray.storage.xmp import Packet

_MIME_TYPES = {
    **{"png": "image/png", "png16": "image/png", "jpeg": "image/jpeg"},
    **{"webp": "image/webp", "gif": "image/gif"},
}
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},  # a thumbnail of the parent would show the old picture
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
}


class SigningError(DmtError):
    """A result could not be signed; the message says why."""


def check_signing(certificate: bytes, key: bytes) -> str:
    """Return the name of the algorithm that a certificate and its private key sign with, such as ``es256``.

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
        own = x509.load_pem_x509_certificates(certificate)[0].public_key()
    except (ValueError, IndexError) as error:
        raise SettingsError("The certificate to sign with is no certificate in PEM.") from error
    if own != private.public_key():
        raise SettingsError("The certificate to sign with is not of the key: the signer's own must come first.")
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in _CURVES:
        return _CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey) and private.key_size >= 2048:
        return "ps256"
    raise SettingsError(
        "The key to sign with is of no kind that C2PA allows: ECDSA on P-256, P-384 or P-521, Ed25519, or RSA of at "
        "least 2048 bits."
    )


def sign_image(
    data: bytes, image_format: str, certificate: bytes, key: bytes, *, parent: bytes | None = None
) -> bytes:
    """Return an encoded result with a signed C2PA manifest that says what its XMP says: edited, by what, and how.

    Two signatures of one picture differ, as signatures do.

    Parameters:
        data: the encoded result.
        image_format: ``png``, ``png16``, ``jpeg``, ``webp`` or ``gif``.
        certificate, key: see ``check_signing``.
        parent: the encoded input, which the manifest then names by its hash, with what it was signed with itself;
            where it is left out, or of a format that C2PA has no place for, the unsigned result stands for it.

    Raises:
        SettingsError: certificate or key cannot be used.
        SigningError: the library refuses; says why.
    """
    algorithm = check_signing(certificate, key)
    import c2pa

    action: dict[str, Any] = {"action": "c2pa.edited", "softwareAgent": _program()}
    term = _source_type(data)
    if term is not None:
        action["digitalSourceType"] = VOCABULARY + term
    manifest = {
        "claim_generator_info": [_program()],
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [action]}}],
    }
    signed, mime_type = io.BytesIO(), _MIME_TYPES[image_format]
    try:
        context = c2pa.Context(settings=c2pa.Settings.from_dict(_SETTINGS))
        info = c2pa.C2paSignerInfo(algorithm, certificate, _pkcs8(key), None)
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(json.dumps(manifest), context) as builder:
            builder.set_intent(c2pa.C2paBuilderIntent.EDIT)
            if parent is not None and (kind := _mime_type_of(parent)) in c2pa.Builder.get_supported_mime_types():
                builder.add_ingredient({"title": "input", "relationship": "parentOf"}, kind, io.BytesIO(parent))
            builder.sign(signer, mime_type, io.BytesIO(data), signed)
    except c2pa.C2paError as error:
        reason = " ".join(str(error).split())[:300]
        raise SigningError(f"The result could not be signed: {reason}.") from error
    return signed.getvalue()


def _program() -> dict[str, str]:
    return {"name": "dmt_ray", "version": __version__}


def _source_type(data: bytes) -> str | None:
    """Return the term that a result's XMP says."""
    packet = read_metadata(data, 2**62).xmp
    return None if packet is None else Packet(packet).digital_source_type


def _mime_type_of(data: bytes) -> str | None:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP", "GIF", "TIFF"]) as image:
            return image.get_format_mimetype()
    except Exception:  # plugins raise nearly every type; the parent is only named
        return None


def _pkcs8(key: bytes) -> bytes:
    """Return a private key in the one form that the library takes."""
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key, None)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

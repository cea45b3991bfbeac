"""Results signed with a certificate of the tests' own are valid, say what their XMP says, and show what they did."""

from __future__ import annotations

import datetime
import io
import json

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from dmt_ray.errors import SettingsError
from dmt_ray.storage.images import encode_image
from dmt_ray.storage.metadata import Metadata, beside_pixels
from dmt_ray.storage.provenance import VOCABULARY, Provenance
from dmt_ray.storage.signing import SigningError, check_signing, sign_image

c2pa = pytest.importorskip("c2pa")

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
USES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
USES += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def certificate(key, issuer_key, *, ca: bool = False) -> bytes:
    def name(of_ca: bool) -> x509.Name:
        common = x509.NameAttribute(NameOID.COMMON_NAME, "Root" if of_ca else "Signer")
        return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Tests"), common])

    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name(ca)).issuer_name(name(True)).public_key(key.public_key())
    builder = (
        builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)
    )
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


@pytest.fixture(scope="module")
def signing() -> tuple[bytes, bytes]:
    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    return certificate(own, root) + certificate(root, root, ca=True), pem(own)


@pytest.fixture
def attached():
    run = Provenance("transform", "compositeWithTrainedAlgorithmicMedia", "f" * 64, "1")
    return beside_pixels(Metadata(), run, 30, 20, "png", keep=True).attached


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "png16"])
def test_a_signed_result_is_valid_and_says_how_it_came_to_be(signing, attached, image_format):
    data = encode_image(PIXELS, image_format, 90, attached)
    parent = io.BytesIO()
    Image.fromarray(PIXELS).convert("L").save(parent, "JPEG")
    for original in (None, parent.getvalue(), b"no picture"):
        signed = sign_image(data, image_format, *signing, parent=original)
        before, after = (Image.open(io.BytesIO(each)) for each in (data, signed))
        assert np.array_equal(np.asarray(before), np.asarray(after))
        kind = "image/png" if image_format == "png16" else f"image/{image_format}"
        with c2pa.Reader(kind, io.BytesIO(signed)) as reader:
            assert reader.get_validation_state() == "Valid"
            said = json.loads(reader.json())
        manifest = said["manifests"][said["active_manifest"]]
        opened, edited = manifest["assertions"][0]["data"]["actions"]
        assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
        assert edited["digitalSourceType"] == VOCABULARY + "compositeWithTrainedAlgorithmicMedia"
        (ingredient,) = manifest["ingredients"]
        assert ingredient["relationship"] == "parentOf"
        assert (ingredient["format"] == "image/jpeg") == (original == parent.getvalue() or image_format == "jpeg")
        assert "thumbnail" not in manifest
        assert "thumbnail" not in ingredient
    flipped = bytearray(signed)
    flipped[-30] ^= 1
    with c2pa.Reader(kind, io.BytesIO(bytes(flipped))) as reader:
        assert reader.get_validation_state() == "Invalid"


def test_what_cannot_sign_is_said_without_quoting_it(signing, attached):
    chain, key = signing
    assert check_signing(chain, key) == "es256"
    edwards = ed25519.Ed25519PrivateKey.generate()
    assert check_signing(certificate(edwards, edwards), pem(edwards, serialization.PrivateFormat.PKCS8)) == "ed25519"
    odd = ec.generate_private_key(ec.SECP256K1())
    locked = edwards.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"word"),
    )
    for pair, reason in (
        ((chain, b"secret nonsense"), "no private key"),
        ((chain, locked), "passphrase"),
        ((b"nonsense", key), "no certificate"),
        ((chain, pem(odd)), "not of the key"),
    ):
        with pytest.raises(SettingsError, match=reason) as caught:
            check_signing(*pair)
        assert "nonsense" not in str(caught.value)
    own = certificate(serialization.load_pem_private_key(key, None), serialization.load_pem_private_key(key, None))
    with pytest.raises(SigningError, match="could not be signed"):
        sign_image(encode_image(PIXELS, "png", 90, attached)[:100], "png", own, key)
    with pytest.raises(SettingsError, match="no kind that C2PA allows"):
        check_signing(certificate(odd, odd), pem(odd))

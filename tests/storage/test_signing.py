"""Results signed with a certificate of the tests' own are valid, and say and show what they did before."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
from certificates import certificate, made_signing, pem
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from PIL import Image

from dmt_ray.errors import SettingsError
from dmt_ray.storage.images import encode_animation, encode_image
from dmt_ray.storage.metadata import Metadata, beside_pixels
from dmt_ray.storage.provenance import VOCABULARY, Provenance
from dmt_ray.storage.signing import Signable, SigningError, load_signer

c2pa = pytest.importorskip("c2pa")

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
TERM = "compositeWithTrainedAlgorithmicMedia"
RUN = "f" * 64


@pytest.fixture(scope="module")
def signer():
    return load_signer(*made_signing())


def encoded(image_format: str) -> Signable:
    if image_format == "gif":
        return Signable(encode_animation([PIXELS, PIXELS[::-1]], "gif"), "gif", RUN, TERM)
    run = Provenance("transform", TERM, RUN, "1")
    attached = beside_pixels(Metadata(), run, 30, 20, image_format, keep=True).attached
    return Signable(encode_image(PIXELS, image_format, 90, attached), image_format, RUN, TERM)


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp", "png16", "tiff16", "gif"])
def test_a_signed_result_is_valid_and_says_how_it_came_to_be(signer, image_format):
    picture = encoded(image_format)
    signed = signer.sign(picture)
    before, after = (Image.open(io.BytesIO(each)) for each in (picture.data, signed))
    assert np.array_equal(np.asarray(before), np.asarray(after))
    kind = f"image/{image_format.removesuffix('16')}"
    with c2pa.Reader(kind, io.BytesIO(signed)) as reader:
        assert reader.get_validation_state() == "Valid"
        said = json.loads(reader.json())
    manifest = said["manifests"][said["active_manifest"]]
    opened, edited = manifest["assertions"][0]["data"]["actions"]
    assert (opened["action"], edited["action"]) == ("c2pa.opened", "c2pa.edited")
    assert edited["digitalSourceType"] == VOCABULARY + TERM
    (ingredient,) = manifest["ingredients"]
    assert ingredient["relationship"] == "parentOf"
    assert "thumbnail" not in manifest
    assert "thumbnail" not in ingredient
    signer.check(image_format)


def test_what_was_signed_is_known_again(signer):
    picture = encoded("png")
    signed = signer.sign(picture)
    assert signer.sign(picture) != signed
    assert signer.has_signed(signed, picture)
    assert not signer.has_signed(picture.data, picture)
    flipped = bytearray(signed)
    flipped[-30] ^= 1
    assert not signer.has_signed(bytes(flipped), picture)
    assert not signer.has_signed(signed[:-40], picture)
    assert not signer.has_signed(signed, dataclasses.replace(picture, run="other"))
    assert not signer.has_signed(signed, dataclasses.replace(picture, data=picture.data + b"x"))
    other = load_signer(*made_signing())
    assert not other.has_signed(signed, picture)
    assert not other.has_signed(signed + other.own, picture)
    assert signer.fingerprint != other.fingerprint
    assert b"PRIVATE" in signer.key
    assert "PRIVATE" not in repr(signer)


def test_what_cannot_sign_is_said_without_quoting_it(signer):
    chain, key = made_signing()
    assert load_signer(chain, key).algorithm == "es256"
    edwards = ed25519.Ed25519PrivateKey.generate()
    plain = pem(edwards, serialization.PrivateFormat.PKCS8)
    assert load_signer(certificate(edwards, edwards), plain).algorithm == "ed25519"
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
        ((certificate(odd, odd), pem(odd)), "no kind that C2PA allows"),
    ):
        with pytest.raises(SettingsError, match=reason) as caught:
            load_signer(*pair)
        assert "nonsense" not in str(caught.value)
    with pytest.raises(SigningError, match="could not be signed"):
        signer.sign(Signable(encoded("png").data[:100], "png", RUN, None))
    with pytest.raises(SettingsError, match="'avif' cannot be signed, only png"):
        signer.check("avif")
    with pytest.raises(SettingsError, match="cannot sign"):
        load_signer(*made_signing(days=-1)).check("png")

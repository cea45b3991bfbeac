"""No secret of a URI, a header or a driver's message is readable once it is masked, whatever the scheme."""

from __future__ import annotations

import time

import pytest

from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.masking import fingerprint_uri, masked, without_secrets
from dmt_ray.pipeline.fingerprint import as_recorded

URIS = [
    *("abfs://c@account.dfs.core.windows.net/x.jpg?sv=2&se=3&sig=s3cret%3D", "az://c/x.jpg?sig=s3cret"),
    *("s3://b/x.jpg?X-Amz-Signature=s3cret", "custom://b/x.jpg?x-amz-security-token=s3cret&X-Amz-Credential=s3cret"),
    *("gs://b/x.jpg?X-Goog-Signature=s3cret&GoogleAccessId=s3cret", "s3://key:s3cret@b/x.jpg", "hf://a?token=s3cret"),
    *("https://s3cret@host/x.jpg", "https://host/x.jpg?what=s3cret", "https://host/x.jpg#access_token=s3cret&b=1"),
    *(
        "https://host/x.jpg?a=s3cret#access_token=s3cret",
        "webhdfs://host/x.jpg?key=s3cret",
        "s3://b/x?api_key=s3cret",
    ),
]
MESSAGES = [
    "Authorization: AWS4-HMAC-SHA256 Credential=s3cret, SignedHeaders=host, Signature=s3cret",
    "{'Authorization': 'Bearer s3cret', 'x-amz-security-token': 's3cret'}",
    'Could not connect to the endpoint URL: "https://b.s3.amazonaws.com/x?X-Amz-Signature=s3cret"',
    "An error occurred (SignatureDoesNotMatch): AWSAccessKeyId=s3cret Signature=s3cret",
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=s3cret==;EndpointSuffix=x",
    '401, message="Unauthorized", url="https://host/x?token=s3cret"',
    '{"access_token": "s3cret", "expires": 1}',
    "aws_secret_access_key = s3cret",
    "password=s3cret",
]


@pytest.mark.parametrize("text", [*URIS, *MESSAGES, *(f"cannot read {uri}: no ({uri})" for uri in URIS)])
def test_a_masked_text_holds_no_secret_and_masking_it_again_changes_nothing(text):
    assert "s3cret" not in masked(text)
    assert masked(masked(text)) == masked(text)
    assert "s3cret" not in str(SettingsError(text))
    assert "s3cret" not in str(ImageError("storage", text))


@pytest.mark.parametrize("uri", URIS)
def test_ids_and_fingerprints_hold_none_either(uri):
    for text in (without_secrets(uri), fingerprint_uri(uri)):
        assert "s3cret" not in text
        assert text.startswith(uri[:4])
    assert "***" not in without_secrets(uri)


def test_a_uri_that_is_signed_anew_has_the_same_id_and_fingerprint():
    place = "abfs://c@account/x.jpg"
    for uri in (f"{place}?sv=1&se=2&sig=a", f"{place}?sv=1&se=9&sig=b"):
        assert (without_secrets(uri), fingerprint_uri(uri)) == (place, place)
    assert fingerprint_uri(f"{place}?sig=a&set=A") != fingerprint_uri(f"{place}?sig=a&set=B")


@pytest.mark.parametrize(
    "text",
    [
        *("s3://bucket/a@b:c.jpg?x", "s3://bucket/a?versionId=3", "abfs://container@account/x.jpg", "photos/a?b.jpg"),
        *("/x/a.tar#sample=0-1&key=img001", "/x/t.csv#row=0&by=uri&column=token", "unexpected token: x", "size=96"),
        *("/data/key=5/a.jpg", "https://example.org/a.jpg#row=3&by=id", "sha256: abc", "a token, a key: b"),
    ],
)
def test_what_is_no_secret_stays(text):
    assert masked(text) == text
    assert without_secrets(text).partition("#")[0] == text.partition("#")[0]


@pytest.mark.parametrize("option", ["weights", "mask_folder", "displacements", "input", "judge"])
def test_run_json_records_no_secret_of_any_option(option):
    for uri in URIS:
        recorded = str(as_recorded({"section": {option: uri, "allow_uri": (uri, "/data")}, option: uri}))
        assert "s3cret" not in recorded
        assert "/data" in recorded


def test_masking_takes_linear_time():
    began = time.monotonic()
    for part in ("http://", "?key=", "signature", "://:", "secret-", "x-amz-", "access_token", "a=", "://a:b"):
        masked(part * (100_000 // len(part)))
    assert time.monotonic() - began < 2

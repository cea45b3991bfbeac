"""URIs without their secrets: for messages, and for fingerprints."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_plus

_USER_AND_PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s]*@")
_HTTP = re.compile(r"(?i)^https?://")
_HTTP_TOKEN = re.compile(r"(?i)\b(https?)://[^/\s@]+@")
_HASH = "sha256:"
#: A query, unless it is the hash that ``fingerprint_uri`` puts in its place.
_HTTP_QUERY = re.compile(rf"(?i)\b(https?://[^?\s]+)\?(?!{_HASH}[0-9a-f]{{16}}(?:[\s'\"]|$))[^\s'\"]+")

#: Parameters of a query that only sign the request, in lower case: they differ from signature to signature.
_SIGNING = frozenset({"signature", "expires", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy"})
_SIGNING_PREFIXES = ("x-amz-", "x-goog-")
#: Azure's. Other servers use such short words for other things, so they only count beside Azure's signature.
_AZURE_SIGNATURE = "sig"
_AZURE_SIGNING = frozenset({"sig", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv"})


def masked(text: str) -> str:
    """Return the text with stars for every ``user:password@`` and every HTTP query (it may be a signature)."""
    return _HTTP_QUERY.sub(r"\1?***", _without_users(text))


def fingerprint_uri(uri: str) -> str:
    """Return a URI as it enters a fingerprint: the same text for the same file, without a readable secret.

    The query of an HTTP URI becomes ``sha256:`` and 16 hexadecimal digits, the hash of its sorted parameters. Those
    that only sign the request (AWS, Google, CloudFront, Azure) are left out; a query of nothing else disappears. So
    ``?set=A`` and ``?set=B`` differ, and a URI that is signed anew stays the same. Users and passwords become stars.
    Any other text stays as it is.
    """
    place, mark, query = uri.partition("?")
    if not mark or not _HTTP.match(uri):
        return _without_users(uri)
    parameters = [(unquote_plus(text.partition("=")[0]).lower(), text) for text in query.split("&") if text]
    signing = _SIGNING | (_AZURE_SIGNING if _AZURE_SIGNATURE in dict(parameters) else frozenset())
    kept = sorted(text for name, text in parameters if name not in signing and not name.startswith(_SIGNING_PREFIXES))
    if not kept:
        return _without_users(place)
    digest = hashlib.sha256("&".join(kept).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_without_users(place)}?{_HASH}{digest[:16]}"


def _without_users(text: str) -> str:
    return _HTTP_TOKEN.sub(r"\1://***@", _USER_AND_PASSWORD.sub("://***@", text))

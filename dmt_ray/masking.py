"""URIs without their secrets: for messages and rows, for ids, and for fingerprints."""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_plus

_USER_AND_PASSWORD = re.compile(r"://[^/\s@:]*:[^/\s]*@")
_HTTP = re.compile(r"(?i)^https?://")
_HTTP_TOKEN = re.compile(r"(?i)\b(https?)://[^/\s@]+@")
_HASH = "sha256:"
#: A web address and its query. The whole address is one match, so that a text of many addresses takes linear time.
_HTTP_QUERY = re.compile(r"(?i)\b(https?://[^?\s]+)(\?[^\s'\"#]+)?")
#: What ``fingerprint_uri`` puts in the place of a query.
_HASHED = re.compile(rf"\?{_HASH}[0-9a-f]{{16}}")
_QUERY = re.compile(r"\?[^\s'\"#]+")

#: Parameters that hold a secret or a signature, whatever the scheme, and wherever they stand.
_SECRET_NAME = (
    r"(?:x[-_](?:amz|goog)[-_](?:signature|security[-_]token|credential))"
    r"|(?:(?:access|auth|id|refresh|session|private|sas|bearer|security)[-_]?token)|token"
    r"|(?:(?:shared[-_]?access)?[-_]?signature)|sig|jwt"
    r"|password|passwd|pwd|passphrase"
    r"|(?:(?:client|api|app|aws)?[-_]?secret(?:[-_]?(?:access)?[-_]?key)?)"
    r"|(?:aws[-_]?)?(?:access[-_]?key)(?:[-_]?id)?|api[-_]?key|account[-_]?key|private[-_]?key|google[-_]?access[-_]?id"
    r"|credentials?"
)
_SECRET = re.compile(rf"(?i)(?<![A-Za-z0-9_\-])({_SECRET_NAME})(\s*=\s*)(?!\*\*\*)[^\s&;,'\"<>#]+")
#: Short words for secrets that mean other things outside of a query.
_SECRET_IN_QUERY = re.compile(r"(?i)(?<=[?&;])(key|code|auth|authorization|pass|sas|hmac)=(?!\*\*\*)[^\s&;'\"<>#]+")
#: The same as headers or as the fields of an answer.
_HEADER = re.compile(
    r"(?i)\b(authorization|proxy-authorization|cookie|set-cookie|x-amz-[a-z-]*(?:token|signature|credential)"
    r"|(?:access|id|refresh|session|security)_?token|secret_?access_?key|client_secret)"
    r"([\"']?\s*:\s*[\"']?)(?!\*\*\*)(?:(?:bearer|basic|aws4-hmac-sha256|token)\s+)?[^\s'\"]+"
)
#: Ids of AWS access keys.
_ACCESS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")

#: Parameters of a query that only sign the request, in lower case: they differ from signature to signature.
_SIGNING = frozenset({"signature", "expires", "awsaccesskeyid", "googleaccessid", "key-pair-id", "policy"})
_SIGNING_PREFIXES = ("x-amz-", "x-goog-")
#: Azure's. Other servers use such short words for other things, so they only count beside Azure's signature.
_AZURE_SIGNATURE = "sig"
_AZURE_SIGNING = frozenset({"sig", "se", "st", "sp", "sv", "sr", "spr", "skoid", "sktid", "skt", "ske", "sks", "skv"})


def masked(text: str) -> str:
    """Return the text with stars for what may be secret.

    That is every ``user:password@``, every HTTP query (it may be a signature), and, whatever the scheme and also
    outside of URIs, the values of parameters that are called like a signature, token, key or password.
    """
    text = _HTTP_QUERY.sub(_without_query, _without_users(text))
    if "=" in text:
        text = _QUERY.sub(lambda query: _SECRET_IN_QUERY.sub(r"\1=***", query[0]), text)
        text = _SECRET.sub(r"\1\2***", text)
    if ":" in text:
        text = _HEADER.sub(r"\1\2***", text)
    return _ACCESS_KEY_ID.sub("***", text)


def without_secrets(uri: str) -> str:
    """Return a URI without what ``masked`` hides, as an id is made of: the same when it is signed anew.

    A local path stays as it is, and so does the query of another scheme than HTTP that holds no secret.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    host, slash, path = rest.partition("/")
    user = host.rpartition("@")[0]
    if user and (":" in user or _HTTP.match(uri)):
        host = host.rpartition("@")[2]
    plain = f"{scheme}://{host}{slash}{path}"
    place, _, fragment = plain.partition("#")
    if masked(fragment) != fragment or masked(f"?{fragment}") != f"?{fragment}":
        plain = place
    place, found, _ = plain.partition("?")
    return place if found and (_HTTP.match(uri) or masked(plain) != plain) else plain


def fingerprint_uri(uri: str) -> str:
    """Return a URI as it enters a fingerprint: the same text for the same file, without a readable secret.

    The query of an HTTP URI, and one of another scheme that holds a secret, becomes ``sha256:`` and 16 hexadecimal
    digits, the hash of its sorted parameters. Those that only sign the request (AWS, Google, CloudFront, Azure) are
    left out; a query of nothing else disappears. So ``?set=A`` and ``?set=B`` differ, and a URI that is signed anew
    stays the same. Users and passwords become stars, as do secrets in a fragment. Any other text stays as it is.
    """
    place, mark, query = uri.partition("?")
    if not mark or "://" not in uri or not (_HTTP.match(uri) or masked(uri) != _without_users(uri)):
        return masked(_without_users(uri)) if "://" in uri else uri
    parameters = [(unquote_plus(text.partition("=")[0]).lower(), text) for text in query.split("&") if text]
    signing = _SIGNING | (_AZURE_SIGNING if _AZURE_SIGNATURE in dict(parameters) else frozenset())
    kept = sorted(text for name, text in parameters if name not in signing and not name.startswith(_SIGNING_PREFIXES))
    if not kept:
        return _without_users(place)
    digest = hashlib.sha256("&".join(kept).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{_without_users(place)}?{_HASH}{digest[:16]}"


def _without_query(address: re.Match[str]) -> str:
    place, query = address.groups()
    return address[0] if query is None or _HASHED.fullmatch(query) else f"{place}?***"


def _without_users(text: str) -> str:
    return _HTTP_TOKEN.sub(r"\1://***@", _USER_AND_PASSWORD.sub("://***@", text))

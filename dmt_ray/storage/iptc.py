"""IPTC-IIM records as the properties of XMP that mean the same, as the Metadata Working Group pairs them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dmt_ray.storage.xmp import Fields

_TITLES = {5: "title", 116: "rights", 120: "description"}
_LISTS = {80: "creator", 25: "subject"}
_TEXTS = {
    **{40: "Instructions", 85: "AuthorsPosition", 90: "City", 95: "State", 101: "Country"},
    **{103: "TransmissionReference", 105: "Headline", 110: "Credit", 115: "Source", 122: "CaptionWriter"},
}
_DATE_CREATED = 55
_UTF_8 = b"\x1b%G"


def iptc_fields(records: bytes) -> Fields:
    """Return what records of section 2 say; what is cut short or not known is left out."""
    found = list(_datasets(records))
    utf_8 = (1, 90, _UTF_8) in found
    texts: dict[str, str] = {}
    titles: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    for record, number, raw in found:
        text = _decoded(raw, utf_8)
        if record != 2 or not text:
            continue
        if number in _TITLES:
            titles.setdefault(_TITLES[number], text)
        elif number in _LISTS:
            lists.setdefault(_LISTS[number], []).append(text)
        elif number in _TEXTS:
            texts.setdefault(_TEXTS[number], text)
        elif number == _DATE_CREATED and re.fullmatch(r"\d{8}", text):
            texts.setdefault("DateCreated", f"{text[:4]}-{text[4:6]}-{text[6:]}")
    return Fields(texts, titles, lists)


def _datasets(records: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield record number, data set number and value, as far as they are whole; long ones (over 32 KiB) end it."""
    place = 0
    while place + 5 <= len(records) and records[place] == 0x1C:
        size = int.from_bytes(records[place + 3 : place + 5], "big")
        if size & 0x8000 or place + 5 + size > len(records):
            return
        yield records[place + 1], records[place + 2], records[place + 5 : place + 5 + size]
        place += 5 + size


def _decoded(raw: bytes, utf_8: bool) -> str:
    """Return text that XML can hold."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("utf-8" if utf_8 else "latin-1", "replace")
    return xml_text(text)


def xml_text(text: str) -> str:
    """Return text without the characters that XML 1.0 forbids."""
    return re.sub(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text).strip()

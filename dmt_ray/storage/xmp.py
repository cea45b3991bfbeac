"""XMP packets: the input's own with this program's provenance in it, or one of the provenance alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from xml.dom.minidom import Document, Element, Node, parseString
from xml.parsers.expat import ExpatError

from defusedxml import DefusedXmlException, minidom

from dmt_ray.storage.provenance import VOCABULARY, Provenance

#: A packet with more bytes than this is left out.
MOST_BYTES = 2**20

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML = "http://www.w3.org/XML/1998/namespace"
_XMLNS = "http://www.w3.org/2000/xmlns/"
_IPTC_EXT = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_XMP = "http://ns.adobe.com/xap/1.0/"
_MEDIA = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_TIFF, _EXIF = "http://ns.adobe.com/tiff/1.0/", "http://ns.adobe.com/exif/1.0/"
_DC, _PHOTOSHOP = "http://purl.org/dc/elements/1.1/", "http://ns.adobe.com/photoshop/1.0/"
_PREFIXES = {
    **{_RDF: "rdf", _IPTC_EXT: "Iptc4xmpExt", _XMP: "xmp", _MEDIA: "xmpMM", _EVENT: "stEvt"},
    **{_DC: "dc", _PHOTOSHOP: "photoshop"},
}

#: Properties of the old file, which would contradict the new one or show the old picture.
_STALE = {
    _TIFF: frozenset(
        (
            *("ImageWidth", "ImageLength", "Orientation", "BitsPerSample", "Compression", "SamplesPerPixel"),
            *("PhotometricInterpretation", "PlanarConfiguration", "YCbCrSubSampling", "YCbCrPositioning"),
            *("TransferFunction", "WhitePoint", "PrimaryChromaticities", "YCbCrCoefficients", "ReferenceBlackWhite"),
        )
    ),
    _EXIF: frozenset(
        (
            *("PixelXDimension", "PixelYDimension", "ColorSpace", "Gamma", "MakerNote", "NativeDigest"),
            *("ComponentsConfiguration", "CompressedBitsPerPixel"),
        )
    ),
    _DC: frozenset(("format",)),
    _XMP: frozenset(("Thumbnails",)),
    _MEDIA: frozenset(("InstanceID",)),
    _PHOTOSHOP: frozenset(("ICCProfile", "ColorMode", "LegacyIPTCDigest")),
    "http://purl.org/dc/terms/": frozenset(("provenance",)),  # where the old file's C2PA manifest lies
    _IPTC_EXT: frozenset(("DigitalSourceType", "DigitalSourcefileType")),
}
#: Namespaces of what hangs on the old file: further data, depth maps, motion, gain maps.
_STALE_SPACES = (
    "http://ns.adobe.com/xmp/note/",
    "http://ns.google.com/photos/1.0/",
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.apple.com/HDRGainMap/1.0/",
)

_EMPTY = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}"/></x:xmpmeta>'
_BEGIN = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
_END = '<?xpacket end="w"?>'


class XmpError(ValueError):
    """A packet is damaged, unsafe or too large; the message says which, without a full stop."""


@dataclass(frozen=True)
class Fields:
    """What other metadata say in words, as the properties of XMP that mean the same.

    Attributes:
        texts: by name, of the namespace photoshop.
        titles: by name, of Dublin Core, in the language x-default.
        lists: by name, of Dublin Core: ``creator`` in order, others not.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Packet:
    """An XMP packet that is being changed.

    Parameters:
        data: the input's; None begins an empty one.

    Raises:
        XmpError: it cannot be used.
    """

    def __init__(self, data: bytes | None = None) -> None:
        self._document = parseString(_EMPTY) if data is None else _parsed(data)
        found = self._document.getElementsByTagNameNS(_RDF, "RDF")
        if not found:
            raise XmpError("it has no RDF in it")
        self._rdf = found[0]
        self._declares_rdf = self._rdf.prefix != "rdf"
        self._added: Element | None = None
        #: The input's own term, where it has one.
        self.digital_source_type = self._source_type()

    def drop_stale(self) -> None:
        """Remove what is true of the old file alone."""
        for description in self._descriptions():
            for attribute in list(description.attributes.values()):
                if _is_stale(attribute.namespaceURI, attribute.localName):
                    description.removeAttributeNode(attribute)
            for child in _elements(description):
                if _is_stale(child.namespaceURI, child.localName):
                    description.removeChild(child)

    def add_fields(self, fields: Fields) -> None:
        """Add what is not there yet."""
        added = self._own_description()
        for name, text in fields.texts.items():
            if not self._has(_PHOTOSHOP, name):
                self._set(added, _PHOTOSHOP, name, text)
        for name, text in fields.titles.items():
            if not self._has(_DC, name):
                (item,) = self._container(added, name, "Alt", [text])
                item.setAttributeNS(_XML, "xml:lang", "x-default")
        for name, texts in fields.lists.items():
            if texts and not self._has(_DC, name):
                self._container(added, name, "Seq" if name == "creator" else "Bag", texts)

    def add_provenance(self, provenance: Provenance) -> str:
        """Add how the result came to be; return the term that now stands there."""
        term = provenance.source_type_of(self.digital_source_type)
        added = self._own_description()
        self._set(added, _IPTC_EXT, "DigitalSourceType", VOCABULARY + term)
        if not self._has(_XMP, "CreatorTool"):  # it names the first tool of all
            self._set(added, _XMP, "CreatorTool", provenance.program)
        event = self._element(_RDF, "li")
        self._declare(event, _EVENT)
        self._set(event, _EVENT, "action", "edited")
        self._set(event, _EVENT, "softwareAgent", provenance.program)
        self._set(event, _EVENT, "parameters", provenance.parameters)
        self._history(added).appendChild(event)
        return term

    def to_bytes(self) -> bytes:
        """Return the packet, in UTF-8 and without padding.

        Raises:
            XmpError: it is nested too deep.
        """
        try:
            root = self._document.documentElement
            assert root is not None
            return (_BEGIN + root.toxml() + _END).encode("utf-8", "strict")
        except (RecursionError, UnicodeEncodeError) as error:
            raise XmpError("it cannot be written again") from error

    def _descriptions(self) -> Iterator[Element]:
        return (child for child in _elements(self._rdf) if _named(child, _RDF, "Description"))

    def _source_type(self) -> str | None:
        for description in self._descriptions():
            value = description.getAttributeNS(_IPTC_EXT, "DigitalSourceType")
            for child in _elements(description):
                if _named(child, _IPTC_EXT, "DigitalSourceType"):
                    value = child.getAttributeNS(_RDF, "resource") or _text(child)
            if value:
                return value.strip().rstrip("/").rpartition("/")[2]
        return None

    def _has(self, space: str, name: str) -> bool:
        return any(
            description.hasAttributeNS(space, name)
            or any(_named(child, space, name) for child in _elements(description))
            for description in self._descriptions()
        )

    def _history(self, added: Element) -> Element:
        """Return the list of events that is there, or a new one."""
        for description in self._descriptions():
            for child in _elements(description):
                if _named(child, _MEDIA, "History"):
                    for events in _elements(child):
                        if _named(events, _RDF, "Seq"):
                            return events
                    description.removeChild(child)
        self._declare(added, _MEDIA)
        history, events = self._element(_MEDIA, "History"), self._element(_RDF, "Seq")
        history.appendChild(events)
        added.appendChild(history)
        return events

    def _container(self, parent: Element, name: str, kind: str, texts: Sequence[str]) -> list[Element]:
        self._declare(parent, _DC)
        outer, inner = self._element(_DC, name), self._element(_RDF, kind)
        items = []
        for text in texts:
            item = self._element(_RDF, "li")
            item.appendChild(self._document.createTextNode(text))
            inner.appendChild(item)
            items.append(item)
        outer.appendChild(inner)
        parent.appendChild(outer)
        return items

    def _own_description(self) -> Element:
        """Return the description that this program adds, of the same resource as the others."""
        if self._added is None:
            about = next((each.getAttributeNS(_RDF, "about") for each in self._descriptions()), "")
            self._added = self._element(_RDF, "Description")
            self._added.setAttributeNS(_RDF, "rdf:about", about)
            self._rdf.appendChild(self._added)
        return self._added

    def _element(self, space: str, name: str) -> Element:
        made = self._document.createElementNS(space, f"{_PREFIXES[space]}:{name}")
        if space == _RDF and self._declares_rdf:
            self._declare(made, _RDF)
        return made

    def _set(self, element: Element, space: str, name: str, value: str) -> None:
        self._declare(element, space)
        element.setAttributeNS(space, f"{_PREFIXES[space]}:{name}", value)

    def _declare(self, element: Element, space: str) -> None:
        element.setAttributeNS(_XMLNS, f"xmlns:{_PREFIXES[space]}", space)


def _parsed(data: bytes) -> Document:
    if len(data) > MOST_BYTES:
        raise XmpError(f"it has {len(data)} bytes, more than {MOST_BYTES}")
    try:
        document: Document = minidom.parseString(data.strip(b"\x00 \r\n\t"), forbid_dtd=True)
    except (ExpatError, DefusedXmlException, ValueError, LookupError, RecursionError) as error:
        raise XmpError("it is damaged or unsafe XML") from error
    return document


def _elements(parent: Element) -> list[Element]:
    return [child for child in parent.childNodes if child.nodeType == Node.ELEMENT_NODE]


def _named(node: Element, space: str, name: str) -> bool:
    return bool(node.namespaceURI == space and node.localName == name)


def _text(element: Element) -> str:
    return "".join(child.data for child in element.childNodes if child.nodeType == Node.TEXT_NODE)


def _is_stale(space: str | None, name: str) -> bool:
    return space is not None and (name in _STALE.get(space, ()) or space.startswith(_STALE_SPACES))

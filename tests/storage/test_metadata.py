"""What an input's file says beside its pixels is in its results' files, and so is how they came to be."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, IptcImagePlugin, PngImagePlugin

from dmt_ray.storage.attachments import srgb_profile
from dmt_ray.storage.images import decode_image, encode_animation, encode_image
from dmt_ray.storage.metadata import beside_pixels, read_metadata
from dmt_ray.storage.provenance import VOCABULARY, Provenance

RUN = Provenance("colorize", "algorithmicallyEnhanced", "ab" * 32, "1.2.3")
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
ARTIST = "José Müller".encode()
THUMBNAIL = b"\xff\xd8the old picture\xff\xd9"
XMP = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<r:Description r:about="uuid:1" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6" tiff:Make="Kodak"
  xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Darkroom 3" xmp:Rating="5"
  xmlns:exif="http://ns.adobe.com/exif/1.0/" exif:PixelXDimension="4000"
  xmlns:mine="http://example.com/mine/" mine:note="kept">
 <xmp:Thumbnails><r:Alt><r:li>b2xk</r:li></r:Alt></xmp:Thumbnails>
 <dc:title xmlns:dc="http://purl.org/dc/elements/1.1/"><r:Alt>
 <r:li xml:lang="x-default">Grüße &amp; Küsse</r:li></r:Alt></dc:title>{more}
</r:Description></r:RDF></x:xmpmeta>
<?xpacket end="w"?>""".replace("\n<x:", "<x:")


def dataset(number: int, value: bytes) -> bytes:
    return struct.pack(">BBBH", 0x1C, 2, number, len(value)) + value


IPTC = b"\x1c\x01\x5a\x00\x03\x1b%G" + dataset(90, "Zürich".encode()) + dataset(25, b"lake") + dataset(25, b"swan")
IPTC += dataset(55, b"19310704") + dataset(116, b"(c) the heirs")


def exif_block(order: str = ">", orientation: int = 6) -> bytes:
    """An EXIF block with a maker's note and a thumbnail, written without the code under test."""
    entries: dict[str, list[tuple[int, int, int, bytes]]] = {
        "main": [
            (0x010F, 2, 6, b"Kodak\0"),
            (0x0112, 3, 1, struct.pack(order + "H", orientation)),
            (0x011A, 5, 1, struct.pack(order + "II", 240, 1)),
            (0x011B, 5, 1, struct.pack(order + "II", 240, 1)),
            (0x0128, 3, 1, struct.pack(order + "H", 2)),
            (0x013B, 2, len(ARTIST) + 1, ARTIST + b"\0"),
            (0x8298, 2, 7, b"(c) me\0"),
        ],
        "photo": [
            (0x9003, 2, 20, b"1931:07:04 12:00:00\0"),
            (0x927C, 7, 12, b"MakerNote..."),
            (0xA001, 3, 1, struct.pack(order + "H", 65535)),
            (0xA002, 4, 1, struct.pack(order + "I", 4000)),
            (0xA003, 4, 1, struct.pack(order + "I", 3000)),
            (0xA434, 2, 6, b"50 mm\0"),
        ],
        "gps": [
            (1, 2, 2, b"N\0"),
            (2, 5, 3, struct.pack(order + "6I", 47, 1, 22, 1, 0, 0)),
        ],
        "thumbnail": [
            (0x0201, 4, 1, b""),
            (0x0202, 4, 1, struct.pack(order + "I", len(THUMBNAIL))),
        ],
    }
    entries["main"] += [(0x8769, 4, 1, b""), (0x8825, 4, 1, b"")]
    places, at = {}, 8
    for name, values in entries.items():
        places[name] = at
        at += 6 + 12 * len(values) + sum(len(raw) + len(raw) % 2 for *_, raw in values if len(raw) > 4)
    places["picture"] = at
    links = {0x8769: "photo", 0x8825: "gps", 0x0201: "picture"}
    block = (b"MM" if order == ">" else b"II") + struct.pack(order + "HI", 42, 8)
    for name, values in entries.items():
        data, start = b"", places[name] + 6 + 12 * len(values)
        block += struct.pack(order + "H", len(values))
        for tag, kind, count, raw in sorted(values):
            raw = struct.pack(order + "I", places[links[tag]]) if tag in links else raw
            block += struct.pack(order + "HHI", tag, kind, count)
            block += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack(order + "I", start + len(data))
            data += raw + bytes(len(raw) % 2) if len(raw) > 4 else b""
        block += struct.pack(order + "I", places["thumbnail"] if name == "main" else 0) + data
    return b"Exif\0\0" + block + THUMBNAIL


def xmp(more: str = "") -> bytes:
    return XMP.replace("{more}", more).encode()


def photo(image_format: str, **parts: bytes) -> bytes:
    """A photo with EXIF, XMP, IPTC and 300 pixels per inch, or with other parts."""
    exif, packet, iptc = parts.get("exif", exif_block()), parts.get("xmp", xmp()), parts.get("iptc", IPTC)
    image, buffer = Image.fromarray(PIXELS), io.BytesIO()
    if image_format == "jpeg":
        block = b"8BIM\x04\x0c\0\0" + struct.pack(">I", len(THUMBNAIL)) + THUMBNAIL + bytes(len(THUMBNAIL) % 2)
        block += b"8BIM\x04\x04\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
        segment = b"\xff\xed" + struct.pack(">H", len(block) + 16) + b"Photoshop 3.0\0" + block
        image.save(buffer, "JPEG", exif=exif, xmp=packet, extra=segment, dpi=(300, 300))
    elif image_format == "png":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=True)
        text.add_text("Raw profile type iptc", f"\niptc\n {len(iptc)}\n{iptc.hex()}\n", zip=True)
        image.save(buffer, "PNG", exif=exif, pnginfo=text, dpi=(300, 300))
    elif image_format == "webp":
        image.save(buffer, "WEBP", exif=exif, xmp=packet)
    elif image_format == "tiff":
        loaded = Image.Exif()
        loaded.load(exif)
        loaded[33723], loaded[700] = iptc, packet
        image.save(buffer, "TIFF", exif=loaded, dpi=(300, 300))
    return buffer.getvalue()


def result(data: bytes, image_format: str, *, keep: bool = True, run: Provenance = RUN):
    """The result's file, opened, and what ``beside_pixels`` said."""
    said = beside_pixels(read_metadata(data, 10**6), run, 30, 20, image_format, keep=keep)
    made = encode_image(PIXELS, image_format, 90, said.attached)
    assert made == encode_image(PIXELS, image_format, 90, said.attached)
    image = Image.open(io.BytesIO(made))
    image.load()
    assert np.asarray(image.convert("RGB")).shape == PIXELS.shape
    if image_format == "png":
        assert np.array_equal(decode_image(made, max_pixels=10**6), PIXELS)
    assert b"the old picture" not in made
    return image, said


def descriptions(image: Image.Image) -> dict:
    """All properties of a result's XMP, as Pillow reads them."""
    found = image.getxmp()["xmpmeta"]["RDF"]["Description"]
    return {key: value for each in (found if isinstance(found, list) else [found]) for key, value in each.items()}


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("input_format", ["jpeg", "png", "webp", "tiff"])
def test_metadata_live_on(input_format, image_format):
    image, said = result(photo(input_format), image_format)
    assert said.warning is None
    exif = image.getexif()
    if input_format != "tiff":  # which Pillow wrote
        assert ARTIST + b"\0" in image.info["exif"]
    assert (exif[0x010F], exif[0x8298], exif[0x0112]) == ("Kodak", "(c) me", 1)
    taken = exif.get_ifd(0x8769)
    assert (taken[0x9003], taken[0xA434]) == ("1931:07:04 12:00:00", "50 mm")
    assert (taken[0xA002], taken[0xA003], taken[0xA001]) == (30, 20, 1)
    assert 0x927C not in taken
    assert tuple(exif.get_ifd(0x8825)[2])[:2] == (47, 22)  # and seconds of 0 / 0, as phones write them
    assert exif.get_ifd(1) == {}
    said_in_xmp = descriptions(image)
    assert said_in_xmp["title"]["Alt"]["li"]["text"] == "Grüße & Küsse"
    assert (said_in_xmp["Make"], said_in_xmp["note"], said_in_xmp["CreatorTool"]) == ("Kodak", "kept", "Darkroom 3")
    assert not {"Orientation", "PixelXDimension", "Thumbnails"} & set(said_in_xmp)
    assert said_in_xmp["DigitalSourceType"] == VOCABULARY + "algorithmicallyEnhanced"
    event = said_in_xmp["History"]["Seq"]["li"]
    assert (event["action"], event["softwareAgent"]) == ("edited", "dmt_ray 1.2.3")
    assert event["parameters"] == "colorize, run " + "ab" * 32
    if input_format != "webp" and image_format != "webp":
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    if image_format == "webp":
        assert float(exif[0x011A]) == pytest.approx(300 if input_format == "tiff" else 240)
    if input_format != "webp" and image_format == "jpeg":
        assert IptcImagePlugin.getiptcinfo(image)[2, 90] == "Zürich".encode()
        assert set(image.info["photoshop"]) == {0x0404}
    elif input_format != "webp":
        assert (said_in_xmp["City"], said_in_xmp["DateCreated"]) == ("Zürich", "1931-07-04")
        assert said_in_xmp["subject"]["Bag"]["li"] == ["lake", "swan"]
        assert said_in_xmp["rights"]["Alt"]["li"]["text"] == "(c) the heirs"
    profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
    assert "sRGB" in profile.profile.profile_description


def test_the_srgb_profile_does_not_tell_the_time():
    assert struct.unpack(">6H", srgb_profile()[24:36]) == (2000, 1, 1, 0, 0, 0)
    assert srgb_profile.__wrapped__() == srgb_profile()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
@pytest.mark.parametrize("input_format", ["PPM", "JPEG2000", "GIF", "PNG"])
def test_a_plain_photo_gets_its_provenance_alone(input_format, image_format):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, input_format)
    image, said = result(buffer.getvalue(), image_format)
    assert (said.warning, said.digital_source_type) == (None, "algorithmicallyEnhanced")
    assert descriptions(image)["CreatorTool"] == "dmt_ray 1.2.3"
    assert len(said.attached.xmp) < 1000
    assert not image.getexif()


@pytest.mark.parametrize("image_format", ["png", "jpeg", "webp"])
def test_none_leaves_out_all_but_the_provenance(image_format):
    image, said = result(photo("jpeg"), image_format, keep=False)
    assert said.warning is None
    assert not image.getexif()
    assert "dpi" not in image.info
    assert "photoshop" not in image.info
    assert set(descriptions(image)) == {"about", "CreatorTool", "DigitalSourceType", "History"}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("own", "earlier", "term"),
    [
        ("algorithmicallyEnhanced", "trainedAlgorithmicMedia", "trainedAlgorithmicMedia"),
        ("compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "compositeSynthetic"),
        ("compositeWithTrainedAlgorithmicMedia", "digitalCapture", "compositeWithTrainedAlgorithmicMedia"),
        ("algorithmicallyEnhanced", "negativeFilm", "algorithmicallyEnhanced"),
    ],
)
def test_an_edit_makes_no_picture_less_synthetic(own, earlier, term, keep):
    run = Provenance("job", own, "f", "1")
    start = '<i:DigitalSourceType xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    uri = VOCABULARY + earlier
    for more in (f"{start}>{uri}</i:DigitalSourceType>", f'{start} r:resource="{uri}"/>'):
        image, said = result(photo("png", xmp=xmp(more)), "png", keep=keep, run=run)
        assert said.digital_source_type == term
        assert descriptions(image)["DigitalSourceType"] == VOCABULARY + term
        assert said.attached.xmp.count(b"DigitalSourceType=") == 1


def test_the_history_grows():
    once, _ = result(photo("png"), "png")
    buffer = io.BytesIO()
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", once.info["XML:com.adobe.xmp"])
    once.save(buffer, "PNG", pnginfo=info)
    twice, _ = result(buffer.getvalue(), "png", run=Provenance("transform", "algorithmicallyEnhanced", "cd", "2"))
    events = descriptions(twice)["History"]["Seq"]["li"]
    assert [event["softwareAgent"] for event in events] == ["dmt_ray 1.2.3", "dmt_ray 2"]


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(f'<!ENTITY {chr(98 + i)} "{f"&{chr(97 + i)};" * 10}">' for i in range(9))
    + "]>"
)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"no XML", "damaged"),
        (xmp()[:400], "damaged"),
        (xmp().replace(b"Kodak", b"Kod\xffak"), "damaged"),
        (BOMB.encode() + xmp().replace(b"kept", b"&j;"), "unsafe"),
        (b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + xmp().replace(b"kept", b"&a;"), "unsafe"),
        (b"<a>" * 20_000 + b"</a>" * 20_000, "XMP"),
        (xmp("<a xmlns='b'>" * 3000 + "</a>" * 3000), "XMP"),
        (b"<other/>", "no RDF"),
        (xmp(f"<mine:long>{'x' * 2**20}</mine:long>"), "more than 1048576"),
    ],
    ids=["text", "cut", "encoding", "bomb", "entity", "deep", "deep-rdf", "no-rdf", "long"],
)
def test_xmp_that_cannot_be_used_is_left_out_and_said(packet, reason):
    image = io.BytesIO()
    Image.fromarray(PIXELS).save(image, "WEBP", xmp=packet, exif=exif_block())
    found, said = result(image.getvalue(), "png")
    assert reason in said.warning
    assert found.getexif()[0x010F] == "Kodak"
    assert descriptions(found)["DigitalSourceType"] == VOCABULARY + "algorithmicallyEnhanced"
    assert "root:" not in found.info["XML:com.adobe.xmp"]


def test_what_a_jpeg_cannot_hold_is_left_out_and_said():
    data = photo("png", xmp=xmp(f"<mine:long>{'x' * 70_000}</mine:long>"), iptc=IPTC + dataset(40, b"x" * 32_000) * 3)
    image, said = result(data, "jpeg")
    assert "XMP (" in said.warning
    assert "IPTC (" in said.warning
    assert descriptions(image)["CreatorTool"] == "dmt_ray 1.2.3"
    assert image.getexif()[0x010F] == "Kodak"
    kept, said = result(data, "png")
    assert said.warning is None
    assert descriptions(kept)["long"] == "x" * 70_000


def test_overlong_values_of_exif_are_left_out():
    long = exif_block().replace(struct.pack(">HHI", 0x8298, 2, 7), struct.pack(">HHI", 0x8298, 2, 20_000))
    found, said = result(photo("png", exif=long + bytes(20_000)), "jpeg")
    assert said.warning is None
    assert 0x8298 not in found.getexif()
    assert found.getexif()[0x010F] == "Kodak"


def test_a_png_text_that_unpacks_without_end_is_left_out():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    plain = io.BytesIO()
    Image.fromarray(PIXELS).save(plain, "PNG")
    packed = zlib.compress(bytes(20 * 2**20))
    bomb = chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + packed)
    late = chunk(b"eXIf", exif_block()[6:])
    body, end = plain.getvalue()[33:-12], plain.getvalue()[-12:]
    image, said = result(plain.getvalue()[:33] + bomb + body + late + end, "png")
    assert said.warning == "Metadata left out: XMP (more than 1048576 bytes)."
    assert image.getexif()[0x010F] == "Kodak"  # it stood behind the pixels


def test_texts_of_a_png_become_xmp():
    buffer, text = io.BytesIO(), PngImagePlugin.PngInfo()
    for name, value in {"Title": "Grüße", "Author": "Ann\x01", "Copyright": "me"}.items():
        text.add_itxt(name, value) if name == "Title" else text.add_text(name, value)
    Image.fromarray(PIXELS).save(buffer, "PNG", pnginfo=text)
    said = descriptions(result(buffer.getvalue(), "webp")[0])
    assert said["title"]["Alt"]["li"]["text"] == "Grüße"
    assert said["creator"]["Seq"]["li"] == "Ann"
    assert said["rights"]["Alt"]["li"]["text"] == "me"


def test_damaged_metadata_never_cost_a_picture():
    """Bytes of every file are changed at random, as long as the header says which format it is."""
    draw = random.Random(0)
    damaged = 0
    for image_format in ("jpeg", "png", "webp", "tiff"):
        whole = photo(image_format)
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(draw.choice((1, 4, 30))):
                data[draw.randrange(12, len(data))] = draw.choice((0, 1, 0x7F, 0xFF, draw.randrange(256)))
            said = beside_pixels(read_metadata(bytes(data), 10**6), RUN, 30, 20, "jpeg", keep=True)
            damaged += said.warning is not None
            Image.open(io.BytesIO(encode_image(PIXELS, "jpeg", 90, said.attached))).getexif()
    assert damaged > 20


def test_animations_say_how_they_came_to_be():
    said = beside_pixels(read_metadata(photo("jpeg"), 10**6), RUN, 30, 20, "png", keep=True)
    frames = [PIXELS, 255 - PIXELS]
    webp = Image.open(io.BytesIO(encode_animation(frames, "webp", attached=said.animation)))
    assert descriptions(webp)["DigitalSourceType"] == VOCABULARY + "algorithmicallyEnhanced"
    assert not webp.getexif()
    gif = Image.open(io.BytesIO(encode_animation(frames, "gif", attached=said.animation)))
    assert gif.info["comment"].startswith(b"dmt_ray 1.2.3, colorize, run abab")
    assert gif.info["comment"].endswith((VOCABULARY + "algorithmicallyEnhanced").encode())

"""A new input format is one module and one entry of the registry: here, a text of names and colours."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dmt_ray.errors import ImageError
from dmt_ray.storage import files
from dmt_ray.storage.inputs.formats import Fields, InputFormat
from dmt_ray.storage.inputs.listing import INSIDE, Listing, listing_batch, relative
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.inputs.registry import FORMATS, list_inputs, open_listing


def lines(file):
    return dict(line.split(" ") for line in files.read_bytes(file).decode().splitlines())


def list_palettes(place):
    def batches():
        for file in place.files:
            names = list(lines(file))
            uris = [f"{file}#member={name}" for name in names]
            yield listing_batch(
                [f"{relative(file, place.root)}#{name}" for name in names], uris, uris, origins=INSIDE
            )

    return Listing(batches, pa.schema([("colour", pa.string())]), containers=place.containers(list(place.files)))


class PaletteReader:
    """Reads one-pixel pictures."""

    concurrent = True

    def _colour(self, uri):
        file, _, name = uri.partition("#member=")
        found = lines(file)
        if name not in found:
            raise ImageError("changed", f"{file} has no {name} any more.")
        return found[name]

    def read(self, item, check_size):
        return b"P6 1 1 255\n" + bytes.fromhex(self._colour(item.uri))

    def read_record(self, item, columns):
        return dict.fromkeys(columns, self._colour(item.record))

    def read_fields(self, item, schema):
        return Fields(pa.table({name: [self._colour(item.record)] for name in schema.names}, schema=schema))

    def close(self):
        pass


@pytest.fixture
def palettes(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "dmt_ray.storage.inputs.registry.FORMATS",
        [*FORMATS, InputFormat("palettes", frozenset({".palette"}), list_palettes, reader=PaletteReader)],
    )
    (tmp_path / "a.palette").write_text("red ff0000\nblue 0000ff\n")
    return tmp_path


def test_its_images_are_listed_and_read_like_any_others(palettes):
    listing = open_listing(str(palettes))
    items = list(listing)
    assert [item.id for item in items] == ["a.palette#red", "a.palette#blue"]
    assert list(listing.containers) == [str(palettes / "a.palette")]
    with InputReader(containers=listing.containers) as reader:
        assert reader.read_item(items[1]).endswith(b"\x00\x00\xff")
        assert reader.read_record(items[0], ["colour"]) == {"colour": "ff0000"}
        assert reader.read_fields(items[0], listing.input_columns).values["colour"].to_pylist() == ["ff0000"]


def test_it_is_held_to_what_was_planned(palettes):
    listing = open_listing(str(palettes))
    items = list(listing)
    (palettes / "a.palette").write_text("red 00ff00\n")
    with InputReader(containers=listing.containers) as reader, pytest.raises(ImageError, match="has changed since"):
        reader.read_item(items[0])
    with InputReader() as reader, pytest.raises(ImageError, match="no blue"):
        reader.read_item(items[1])


def test_the_first_format_of_a_place_counts(palettes):
    (palettes / "b.png").write_bytes(b"no picture")
    assert [item.id for item in list_inputs(str(palettes))] == ["b.png"]

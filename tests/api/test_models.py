"""Models of the Python API: fitted from pictures in any form, saved, loaded, and equal to what a run makes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from made_processor import made_processor
from material import ARTIST, but_for_the_run, photo
from PIL import Image

import dmt_ray
from dmt_ray.errors import ImageError, SettingsError
from dmt_ray.jobs.fit import FitConfig, FitExemplars, fit
from dmt_ray.jobs.manifolds import open_manifold
from dmt_ray.method.settings import ModelConfig

SMALL = {"size": 32, "weights": "random:0", "lpips": False, "iterations": 2}


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    """Three colour photos as files."""
    folder = tmp_path_factory.mktemp("colour")
    for index in range(3):
        photo(index).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def grey(tmp_path_factory):
    """A grey photo on its side, as a file."""
    place = tmp_path_factory.mktemp("grey") / "grey.jpg"
    exif = Image.Exif()
    exif[ARTIST], exif[0x0112] = "An artist", 6
    photo(100, 90, 64).convert("L").save(place, exif=exif)
    return place


@pytest.fixture(scope="module")
def model(colour):
    return dmt_ray.Colorizer.fit(colour, **SMALL)


@pytest.fixture(scope="module")
def classes():
    """Two classes of photos, dark and light."""
    pictures = [np.asarray(photo(index, 48, 40)) for index in range(6)]
    return [picture // 2 for picture in pictures[:3]], [picture // 2 + 120 for picture in pictures[3:]]


@pytest.fixture(scope="module")
def lighter(classes):
    return dmt_ray.Transformer.fit(*classes, judge="none", **SMALL)


def test_references_in_any_form_teach_the_same(colour, grey, model):
    files = sorted(colour.iterdir())
    images = [Image.open(file) for file in files]
    mixed = [files[0], images[1], files[2].read_bytes()]
    wanted = model.edit(grey)
    for references in (np.stack([np.asarray(image) for image in images]), mixed):
        made = dmt_ray.Colorizer.fit(references, **SMALL).edit(grey)
        assert np.array_equal(made.picture, wanted.picture)


def test_a_photo_in_any_form_gives_the_same(grey, model):
    wanted = model.edit(grey, strength=1.5)
    assert wanted.picture.size == (64, 90)  # upright, at its own size
    assert wanted.figures["strength"] == 1.5
    assert Image.open(io.BytesIO(wanted.data)).getexif()[ARTIST] == "An artist"
    with Image.open(grey) as image:
        upright = np.asarray(image.transpose(Image.Transpose.ROTATE_270))
        forms = [str(grey), grey.read_bytes(), image, upright, upright[..., None], np.dstack([upright] * 3)]
        for form in forms:
            assert np.array_equal(model.edit(form, strength=1.5).picture, wanted.picture), type(form)


def test_an_edit_is_the_row_of_a_run(colour, grey, tmp_path):
    for config, made in (
        (
            dmt_ray.ColorizeConfig.of(
                input=grey, reference=colour, output=tmp_path, strength=[1, 3], save_path=2, seed=5, **SMALL
            ),
            dmt_ray.Colorizer.fit(colour, seed=5, **SMALL).path(grey, [1, 3], save_path=2),
        ),
        (
            dmt_ray.TransformConfig.of(
                input=grey,
                source=colour,
                target=str(colour / "1.png"),
                output=tmp_path,
                start="noise",
                seed=7,
                **SMALL,
            ),
            [dmt_ray.Transformer.fit(colour, colour / "1.png", seed=7, **SMALL).edit(grey, start="noise")],
        ),
    ):
        rows = _rows(config)
        assert [row["status"] for row in rows] == ["ok"] * len(made)
        assert but_for_the_run([row["image"] for row in rows]) == but_for_the_run([each.data for each in made])
        assert [row["animation"] is None for row in rows] == [not each.frames for each in made]
        for row, each in zip(rows, made, strict=True):
            measured = {name: value for name, value in each.figures.items() if not name.startswith("seconds")}
            assert measured == {name: row[name] for name in measured}


def _rows(config):
    """Return the rows that the actors of a run make."""
    run, processor, _ = made_processor(config, judge=True)
    items = [item for shard in run.shards for item in shard.items]
    return processor.reconstruct(processor.traverse(items), 1).to_pylist()


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_a_saved_model_edits_as_before(place, tmp_path, classes, grey):
    uri = str(tmp_path / "model") if place == "folder" else "memory://models/one"
    model = dmt_ray.Transformer.fit(*classes, strength=3, tv_on="image", judge="none", **SMALL)
    model.save(uri)
    loaded = dmt_ray.Transformer.load(uri, weights="random:0", judge="none")
    wanted = model.edit(grey)
    assert wanted.figures["strength"] == 3
    assert loaded.edit(grey).data == wanted.data  # with all that was given to fit
    other = dmt_ray.Transformer.load(uri, weights="random:0", judge="none", iterations=1)
    assert other.edit(grey).figures["iterations"] == 1
    with pytest.raises(SettingsError, match="made with other weights"):
        dmt_ray.Transformer.load(uri, weights="random:1", judge="none")
    with pytest.raises(SettingsError, match="a manifold of the job 'transform', not of 'colorize'"):
        dmt_ray.Colorizer.load(uri, weights="random:0")


def test_a_colorizer_is_saved_too(model, grey, tmp_path):
    model.save(tmp_path / "model")
    loaded = dmt_ray.Colorizer.load(tmp_path / "model", weights="random:0")
    assert repr(loaded) == "<Colorizer of 3 references, size 32, on cpu>"
    assert loaded.edit(grey).data == model.edit(grey).data


def test_the_command_line_and_the_api_save_the_same(colour, tmp_path, grey):
    one, two = colour / "0.png", colour / "1.png"
    network = {"size": 32, "weights": "random:0"}
    fit(FitConfig(str(tmp_path / "a"), FitExemplars(str(one), str(two)), model=ModelConfig(**network), judge="none"))
    model = dmt_ray.Transformer.fit(one, two, judge="none", **SMALL)
    model.save(tmp_path / "b")
    a, b = (open_manifold(str(tmp_path / name), "transform") for name in "ab")
    assert a.checksum == b.checksum
    assert (a.options, b.options) == ({}, {"lpips": False, "iterations": 2})
    edits = {"weights": "random:0", "judge": "none", "lpips": False, "iterations": 2}
    loaded = dmt_ray.Transformer.load(tmp_path / "a", **edits)
    assert np.array_equal(loaded.edit(grey).picture, model.edit(grey).picture)


def test_exemplars_from_tables(colour, tmp_path, grey):
    table = tmp_path / "ages.csv"
    table.write_text("uri,age\n" + "".join(f"{file},{age}\n" for age, file in enumerate(sorted(colour.iterdir()))))
    wheres = {"source_where": "age < 1", "target_where": "age >= 1"}
    exemplars = FitExemplars(str(table), str(table), attribute_columns=("age",), **wheres)
    fit(FitConfig(str(tmp_path / "a"), exemplars, model=ModelConfig(size=32, weights="random:0"), judge="none"))
    loaded = dmt_ray.Transformer.load(tmp_path / "a", judge="none", weights="random:0", lpips=False, iterations=2)
    fitted = dmt_ray.Transformer.fit(table, table, judge="none", **wheres, **SMALL)
    assert repr(fitted) == "<Transformer of 1 source, 2 targets, size 32, on cpu>"
    # A photo is in no table, so it has no attributes, and needs none.
    assert np.array_equal(loaded.edit(grey).picture, fitted.edit(grey).picture)


def test_a_path_begins_as_its_first_edit(lighter, classes):
    first, second = lighter.path(classes[0][0], strengths=[2, 6])
    assert np.array_equal(first.picture, lighter.edit(classes[0][0], strength=2).picture)
    assert (first.figures["strength"], second.figures["strength"]) == (2, 6)
    assert second.figures["psnr_to_input"] < first.figures["psnr_to_input"]


def test_black_in_the_mask_stays_as_it_is(lighter, classes, tmp_path):
    photo_ = classes[0][1]
    mask = np.zeros(photo_.shape[:2], np.uint8)
    mask[:, :24] = 255
    whole = np.asarray(lighter.edit(photo_, strength=6).picture)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    for form in (mask, str(tmp_path / "mask.png")):
        part = np.asarray(lighter.edit(photo_, strength=6, mask=form).picture)
        assert np.array_equal(part[:, 24:], photo_[:, 24:])
        assert not np.array_equal(part[:, :24], photo_[:, :24])
    assert not np.array_equal(whole[:, 24:], photo_[:, 24:])


def test_a_result_is_written_with_its_metadata(model, grey, tmp_path):
    result = model.edit(grey, image_format="jpeg", image_quality=80, save_path=3, resolution="working")
    result.save(str(tmp_path / "result.jpg"))
    with Image.open(tmp_path / "result.jpg") as image:
        assert (image.format, image.size) == ("JPEG", (32, 32))
        assert image.getexif()[ARTIST] == "An artist"
    assert [frame.size for frame in result.frames] == [(32, 32)] * 4


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (b"", "empty", "no bytes"),
        (b"not an image at all", "not-an-image", "are plain text"),
        (np.zeros((8, 8, 3)), "unsupported", r"float64 of shape \(8, 8, 3\); it must be uint8"),
        (np.zeros((8, 8, 5), np.uint8), "unsupported", r"shape \(8, 8, 5\)"),
        (Image.new("F", (8, 8)), "unsupported", r"mode F .* convert"),
        ("/nowhere/photo.jpg", "storage", "photo.jpg"),
    ],
)
def test_a_photo_that_cannot_be_used_says_why(model, bad, kind, reason):
    with pytest.raises(ImageError, match=reason) as caught:
        model.edit(bad)
    assert caught.value.kind == kind


def test_what_is_no_picture_is_a_type_error(model):
    with pytest.raises(TypeError, match="and not dict"):
        model.edit({})


def test_several_results_are_for_path(model, grey, colour):
    with pytest.raises(SettingsError, match=r"edit\(\) makes one result, and the options ask for 2"):
        dmt_ray.Colorizer.fit(colour, strength=[1, 2], **SMALL).edit(grey)
    with pytest.raises(TypeError, match=r"Colorizer\.edit\(\) has no keyword 'size': this option is for fit"):
        model.edit(grey, size=64)


def test_exemplars_that_cannot_be_used(colour, tmp_path):
    colourless = np.full((40, 40, 3), 90, np.uint8)
    model = dmt_ray.Colorizer.fit([colourless, *sorted(colour.iterdir())], **SMALL)
    assert model.left_out == ["reference 0: The picture is grey, and a reference must have colour."]
    for references, reason in (
        ([colourless], "The only reference cannot be used: .* is grey"),
        ([], "--reference holds no picture"),
        (colourless, r"--reference is an array of shape \(40, 40, 3\); several pictures are"),
        ([np.zeros((8, 8, 3))], "--reference: picture 0: The array is float64"),
        (tmp_path / "nowhere", "--reference: .*nowhere"),
    ):
        with pytest.raises(SettingsError, match=reason):
            dmt_ray.Colorizer.fit(references, **SMALL)
    limited = dmt_ray.Colorizer.fit(sorted(colour.iterdir()), reference_limit=2, **SMALL)
    assert repr(limited) == "<Colorizer of 2 references, size 32, on cpu>"


def test_pictures_in_memory_are_not_kept(model, grey):
    import fsspec

    model.edit(np.asarray(Image.open(grey)))
    assert [name for name in fsspec.filesystem("memory").store if "dmt_ray-" in name] == []

"""What is done to a shard's images, without Ray."""

import io
from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
import torch
from made_processor import made_processor
from material import ARTIST, photo
from PIL import Image

from dmt_ray.method import color
from dmt_ray.output.commit import ROW_SCHEMA
from dmt_ray.pipeline.bisecting import run_bisecting
from dmt_ray.pipeline.fingerprint import fingerprint
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.pipeline.traversed import TRAVERSED_SCHEMA
from dmt_ray.storage.images import decode_image


def test_guarded_finds_the_culprit_and_keeps_the_rest():
    calls = []

    def step(batch):
        calls.append(len(batch))
        if 5 in batch:
            raise ValueError("five")
        return [value * 10 for value in batch]

    results = run_bisecting(step, list(range(8)))
    assert [value for value in results if not isinstance(value, Exception)] == [0, 10, 20, 30, 40, 60, 70]
    assert isinstance(results[5], ValueError)
    assert run_bisecting(step, []) == []


def test_guarded_halves_what_does_not_fit():
    def step(batch):
        if len(batch) > 2:
            raise MemoryError
        return batch

    assert run_bisecting(step, list(range(7))) == list(range(7))


def bench_of(config, **options):
    run, processor, learned = made_processor(config, **options)
    assert learned.skipped == []
    return run, processor


def test_frames_are_told_and_truncated_photos_are_kept_only_when_accepted(configure, photos, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("photo-0.jpg", "truncated.jpg"):
        (folder / name).write_bytes((photos / "inputs" / name).read_bytes())
    pages = [Image.open(photos / "references" / f"{index}.png") for index in range(3)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    config = configure(input=str(folder), accept_truncated=True, image_format="webp")
    run, processor = bench_of(config)
    items = [item for shard in run.shards for item in shard.items]
    rows = {row["id"]: row for row in processor.reconstruct(processor.traverse(items), 1).to_pylist()}
    assert {id_: (row["status"], row["frames"], row["truncated"]) for id_, row in rows.items()} == {
        "pages.tif": ("ok", 3, False),
        "photo-0.jpg": ("ok", 1, False),
        "truncated.jpg": ("ok", 1, True),
    }
    strict = prepare_run(replace(config, inputs=replace(config.inputs, accept_truncated=False)))
    assert fingerprint(strict.settings) != fingerprint(run.settings)


@pytest.mark.parametrize("traversal", ["local", "global"])
def test_good_and_bad_images_become_rows(configure, traversal):
    run, processor = bench_of(configure(traversal=traversal, strength=1.0, image_format="webp"))
    items = [item for shard in run.shards for item in shard.items]
    traversed = processor.traverse(items)
    assert traversed.schema == TRAVERSED_SCHEMA
    table = processor.reconstruct(traversed, attempts=2)
    assert table.schema == ROW_SCHEMA
    rows = {row["id"]: row for row in table.to_pylist()}
    assert list(rows) == [item.id for item in items]
    assert rows["empty.jpg"]["error_type"] == "empty"
    assert rows["truncated.jpg"]["error_type"] == "truncated"
    for row in rows.values():
        assert (row["attempts"], row["worker"], row["weights"]) == (2, "here:1", "random:0")
        assert row["device"] == "cpu"
        if row["status"] == "error":
            assert row["error"]
            assert row["image"] is None
            continue
        assert row["error"] is None
        picture = decode_image(row["image"], max_pixels=10**9)
        assert picture.shape == (64, row["width"], 3)
        assert row["feature_loss_after"] <= row["feature_loss_before"]
        assert 0 < row["iterations"] <= 2
        assert row["displacement_norm"] > 0
        assert row["seconds_reconstruct"] > 0
        assert (row["budget_weight"] is None) == (traversal == "local")


def test_an_image_over_the_pixel_limit_is_an_error_row(configure):
    run, processor = bench_of(configure(max_pixels=80 * 64))
    table = processor.traverse([item for shard in run.shards for item in shard.items])
    kinds = dict(zip(table["id"].to_pylist(), table["error_type"].to_pylist(), strict=True))
    assert kinds["photo-0.jpg"] is None
    assert kinds["photo-1.jpg"] is not None


def test_results_do_not_depend_on_the_batch(configure):
    pictures = []
    for size in (1, 4):
        run, processor = bench_of(configure(batch_size=size, precision="fp32"))
        table = processor.reconstruct(
            processor.traverse([item for shard in run.shards for item in shard.items][1:5]), 1
        )
        pictures.append([decode_image(image, max_pixels=10**9) for image in table["image"].to_pylist()])
    for one, other in zip(*pictures, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 2


@pytest.mark.parametrize("fits", [3, 1])
def test_what_does_not_fit_on_the_device_goes_through_in_smaller_batches(configure, fits):
    """torch's own error, raised wherever the network is given more pictures at once than fit."""
    run, processor = bench_of(configure(batch_size=8, precision="fp32"))
    items = [item for shard in run.shards for item in shard.items][1:5]
    whole = processor.reconstruct(processor.traverse(items), 1)
    refused, passed = [], []

    def device_of_few(_, inputs):
        count = len(inputs[0])
        (refused if count > fits else passed).append(count)
        if count > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = processor.editor.network.register_forward_pre_hook(device_of_few)
    traversed = processor.traverse(items)
    assert set(refused) == ({4} if fits == 3 else {4, 2})
    assert max(passed) == min(fits, 2)
    refused.clear()
    halved = processor.reconstruct(traversed, 1)
    assert set(refused) == ({4} if fits == 3 else {4, 2})
    refused.clear()
    processor.reconstruct(traversed, 1)
    assert refused == []  # it remembers
    handle.remove()
    assert halved["status"].to_pylist() == ["ok"] * 4
    for one, other in zip(whole["image"].to_pylist(), halved["image"].to_pylist(), strict=True):
        pictures = [decode_image(image, max_pixels=10**9).astype(int) for image in (one, other)]
        assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_an_image_that_does_not_fit_alone_costs_its_own_row(configure):
    run, processor = bench_of(configure(batch_size=8))
    items = [item for shard in run.shards for item in shard.items][1:5]
    network = processor.editor.network
    seen = []
    handle = network.register_forward_pre_hook(lambda _, inputs: seen.append(round(float(inputs[0].mean()), 5)))
    processor.traverse(items[1:2])
    handle.remove()

    def no_room_for_the_second(_, inputs):
        if len(inputs[0]) > 1 or round(float(inputs[0].mean()), 5) in seen:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    network.register_forward_pre_hook(no_room_for_the_second)
    rows = processor.traverse(items).to_pylist()
    assert [row["error_type"] for row in rows] == [None, "OutOfMemoryError", None, None]
    assert "Tried to allocate" in rows[1]["error"]


def test_overlapping_changes_no_row(configure):
    options = {"batch_size": 2, "strength": (1.0, 2.0), "image_format": "jpeg"}
    run, plain = bench_of(configure(**options), overlap=False)
    _, overlapping = bench_of(configure(**options), overlap=True)
    one, other = (rows_of(processor, run) for processor in (plain, overlapping))
    assert len(one) == 6
    for row in (*one.values(), *other.values()):
        for stage in ("read", "traverse", "reconstruct"):
            del row[f"seconds_{stage}"]
    assert one == other


def rows_of(processor, run):
    table = processor.reconstruct(processor.traverse([item for shard in run.shards for item in shard.items]), 1)
    return {row["id"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("metadata", ["keep", "none"])
def test_results_say_what_their_inputs_say_and_how_they_came_to_be(configure, metadata, tmp_path):
    exif = Image.Exif()
    exif[ARTIST], exif[0x0112] = "Ann", 6
    (tmp_path / "in").mkdir()
    photo(1).save(tmp_path / "in" / "a.jpg", exif=exif, dpi=(200, 200))
    photo(2).save(tmp_path / "in" / "b.jpg", exif=exif, xmp=b"<x:xmpmeta")
    options = {"metadata": metadata, "image_format": "jpeg", "strength": (1.0, 2.0), "save_path": 1}
    run, processor = bench_of(configure(input=str(tmp_path / "in"), **options))
    table = processor.reconstruct(processor.traverse(list(run.shards.file.shard(0).items)), 1)
    assert table.num_rows == 4
    assert table["digital_source_type"].to_pylist() == ["algorithmicallyEnhanced"] * 4
    keep = metadata == "keep"
    for row in table.to_pylist():
        image = Image.open(io.BytesIO(row["image"]))
        assert image.getexif().get(ARTIST) == ("Ann" if keep else None)
        assert image.size == (row["width"], row["height"]) == (64, 80)  # upright
        assert run.fingerprint.encode() in image.info["xmp"]
        assert b"digitalsourcetype/algorithmicallyEnhanced" in image.info["xmp"]
        assert (image.info.get("dpi") == (200, 200)) == (keep and row["id"] == "a.jpg")
        wanted = "Metadata left out: XMP (it is damaged or unsafe XML)." if keep and row["id"] == "b.jpg" else None
        assert row["warning"] == wanted
        assert run.fingerprint.encode() in Image.open(io.BytesIO(row["animation"])).info["xmp"]


@pytest.mark.parametrize(
    ("image_format", "resolution"), [("png16", "native"), ("png16", "working"), ("tiff16", "native")]
)
def test_a_grey_photo_of_16_bits_leaves_with_its_luma_untouched(configure, tmp_path, image_format, resolution):
    levels = (np.arange(90 * 120, dtype=np.uint16) * 6).reshape(90, 120)
    (tmp_path / "in").mkdir()
    Image.fromarray(levels).save(tmp_path / "in" / "a.png")
    run, processor = bench_of(
        configure(input=str(tmp_path / "in"), image_format=image_format, strength=2.0, resolution=resolution)
    )
    (row,) = rows_of(processor, run).values()
    assert (row["status"], row["image_format"]) == ("ok", image_format)
    decode = imagecodecs.png_decode if image_format == "png16" else imagecodecs.tiff_decode
    picture = decode(row["image"])
    assert picture.dtype == np.uint16
    assert picture.shape == (row["height"], row["width"], 3)
    assert np.ptp(picture.astype(int), axis=2).max() > 257  # it is in colour
    if resolution == "native":
        back = color.luma(torch.tensor(picture.astype(float)).permute(2, 0, 1))[0]
        assert np.array_equal(back.round().numpy(), levels)

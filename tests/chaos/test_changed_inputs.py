"""Inputs and exemplars that change after a driver was killed: an id is the same photo, or nothing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from material import photo
from PIL import Image

from chaos.conftest import PATIENCE, attached, command_line, rows_of, shard_files, until
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]

#: Every photo is of another grey, so that a picture tells whose it is.
GREYS = {f"photo-{index}": 30 + 24 * index for index in range(8)}


def encoded(name: str) -> bytes:
    """A photo of one grey, always in as many bytes: bitmaps are not compressed."""
    picture = np.full((64, 80, 3), GREYS[name], np.uint8)
    picture[::8] = np.asarray(photo(len(name), 80, 64))[::8] // 16 + GREYS[name] - 8
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "BMP")
    return buffer.getvalue()


def as_parquet(path, names):
    pq.write_table(pa.table({"id": names, "image": [encoded(name) for name in names]}), path)


def as_parquet_without_ids(path, names):
    pq.write_table(pa.table({"image": [encoded(name) for name in names]}), path)


def as_tar(path, names):
    with tarfile.open(path, "w") as archive:
        for name in names:
            info = tarfile.TarInfo(f"{name}.bmp")
            info.size = len(encoded(name))
            archive.addfile(info, io.BytesIO(encoded(name)))


@pytest.fixture
def settings(photos, tmp_path):
    shutil.copytree(photos / "references", tmp_path / "references")
    return {
        **{"reference": tmp_path / "references", "size": 64, "weights": "random:0", "iterations": 2, "neighbors": 8},
        **{
            "shard_size": 2,
            "batch_size": 2,
            "threads_per_actor": 1,
            "traversal_actors": 1,
            "reconstruction_actors": 1,
        },
    }


def killed_after_a_shard(start, options, out):
    """Start a driver and kill it after its first shard; at least one shard is left to do."""
    driver = start(command_line(options, out), env=attached())
    until(lambda: shard_files(out), "a shard")
    driver.kill()
    driver.wait()
    until(lambda: shard_files(out) == (before := shard_files(out)) and before, "the last writer")
    last = sorted((out / "shards").glob("shard-*"))[-1]
    if len(shard_files(out)) == 4:
        last.unlink()
    return shard_files(out)


def again(options, out, *more):
    return subprocess.run(
        command_line(options, out, *more), env=attached(), capture_output=True, text=True, timeout=PATIENCE
    )


def luma(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L"), float)


def assert_each_is_itself(out, names=None):
    """Every picture that is there is of the photo that its id names: luma is kept."""
    rows = rows_of(out)
    for id_, row in rows[rows.status == "ok"].iterrows():
        name = (names or {}).get(id_, id_)
        grey = luma(row.image)[4::8]
        assert abs(float(grey.mean()) - GREYS[name]) < 1, (id_, grey.mean())
    return rows


@pytest.mark.parametrize(
    ("write", "file"), [(as_parquet, "t.parquet"), (as_parquet_without_ids, "t.parquet"), (as_tar, "t.tar")]
)
def test_a_container_in_another_order_is_refused_by_its_name(write, file, settings, start, tmp_path):
    names = list(GREYS)
    write(tmp_path / file, names)
    options, out = settings | {"input": tmp_path / file}, tmp_path / "out"
    kept = killed_after_a_shard(start, options, out)
    write(tmp_path / file, names[::-1])
    refused = again(options, out)
    assert refused.returncode == 2, refused.stderr
    assert f"{file} has changed since" in refused.stderr.splitlines()[-1]
    assert shard_files(out) == kept
    write(tmp_path / file, names)  # the same rows, but nobody can know that
    assert again(options, out).returncode == 2
    whole = again(options, out, "--mode", "overwrite")
    assert whole.returncode == 0, whole.stderr
    prefix = {"t.tar": "t.tar#", "t.parquet": ""}[file]
    ids = {f"{prefix}{name}": name for name in names}
    if write is as_parquet_without_ids:
        ids = {f"t.parquet#{row}": name for row, name in enumerate(names)}
    assert len(assert_each_is_itself(out, ids)) == 8


def test_rows_that_have_ids_of_their_own_are_taken_by_them(settings, start, tmp_path):
    """Extended, a re-exported table goes on: rows that moved are told, and none gets another's picture."""
    names = list(GREYS)
    table = tmp_path / "t.parquet"
    as_parquet(table, names[:6])
    options, out = settings | {"input": table, "max_error_rate": 1.0}, tmp_path / "out"
    kept = killed_after_a_shard(start, options, out)
    as_parquet(table, [*names[:5], names[6], names[5], names[7]])
    extended = again(options, out, "--extend")
    assert extended.returncode == 0, extended.stderr
    assert kept.items() <= shard_files(out).items()
    rows = assert_each_is_itself(out)
    assert sorted(rows.index) == sorted(names)
    moved = rows.error_type.dropna().to_dict()
    assert moved in ({"photo-5": "changed"}, {})  # its shard may have been done before
    assert verify_output(str(out), deep=True).complete


def test_a_photo_that_is_replaced_is_an_error_row_until_it_is_asked_for(settings, start, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in GREYS:
        (folder / f"{name}.bmp").write_bytes(encoded(name))
    options, out = settings | {"input": folder, "max_error_rate": 1.0}, tmp_path / "out"
    kept = killed_after_a_shard(start, options, out)
    todo = sorted(set(GREYS) - {id_.removesuffix(".bmp") for id_ in rows_of(out).index})
    replaced = todo[-1]
    (folder / f"{replaced}.bmp").write_bytes(encoded("photo-0"))
    os.utime(folder / f"{replaced}.bmp", ns=(1, 1))  # the size is the same; only the time tells
    assert again(options, out).returncode == 0
    assert kept.items() <= shard_files(out).items()
    rows = assert_each_is_itself(out, {f"{name}.bmp": name for name in GREYS})
    assert rows.error_type.dropna().to_dict() == {f"{replaced}.bmp": "changed"}
    assert again(options, out, "--retry-failed").returncode == 0
    assert set(rows_of(out).status) == {"ok"}


def test_exemplars_replaced_by_others_of_the_same_names_are_other_settings(settings, start, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in GREYS:
        (folder / f"{name}.bmp").write_bytes(encoded(name))
    options, out = settings | {"input": folder}, tmp_path / "out"
    killed_after_a_shard(start, options, out)
    photo(99).save(tmp_path / "references" / "0.png")
    refused = again(options, out)
    assert refused.returncode == 2, refused.stderr
    assert "made with other settings: references was" in refused.stderr.splitlines()[-1]

"""A saved manifold comes back number for number from any store, and nothing that is damaged comes back at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from dmt_ray.storage import files
from dmt_ray.storage.files import StorageError, join, list_names, read_bytes, write_atomic
from dmt_ray.storage.models import array_files, manifolds
from dmt_ray.storage.models.manifolds import delete_arrays, open_arrays, save_arrays

RECORD = {
    "layers": ["conv3_1"],
    "size": 96,
    "rows": [{"id": "1.jpg", "label": "source"}, {"id": "ü", "label": "x"}],
}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache folder of this test's own."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("DMT_RAY_CACHE", str(folder))
    return folder / "manifolds"


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "features": random.normal(size=(7, 301)).astype(np.float16),
        "gram": random.normal(size=(7, 7)),
        "mean_0": np.asfortranarray(random.normal(size=(5, 3, 2)).astype(np.float32)),
        "labels": np.array([True, False]),
        "sources": np.array(3),
        "none": np.empty((0, 4), np.float32),
        "strided": np.arange(40, dtype=np.int32)[::2],
    }


def file_of(folder: str, array: str) -> str:
    [name] = [name for name in list_names(folder) if name.startswith(f"{array}-")]
    return join(folder, name)


def test_comes_back_as_it_was(folder):
    place = join(folder, "manifold")
    saved = arrays()
    save_arrays(place, RECORD, saved)
    record, found = open_arrays(place)
    assert record == RECORD
    assert list(found) == list(saved)
    for name, values in saved.items():
        assert (found[name].dtype, found[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(found[name], values)
        assert not values.size or isinstance(found[name], np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        found["features"][0, 0] = 1
    assert len(list_names(place)) == len(saved) + 1


def test_any_safetensors_reader_opens_the_files(tmp_path):
    save_arrays(str(tmp_path / "m"), {}, arrays())
    for name, values in arrays().items():
        loaded = safetensors.numpy.load_file(file_of(str(tmp_path / "m"), name))["array"]
        np.testing.assert_array_equal(loaded, values)


def test_arrays_are_written_in_pieces_as_they_are(folder, monkeypatch):
    monkeypatch.setattr(array_files, "_PIECE", 1000)
    whole = arrays()["features"]
    save_arrays(folder, {}, {"b": whole, "c": whole.T})
    _, found = open_arrays(folder)
    np.testing.assert_array_equal(found["b"], whole)
    np.testing.assert_array_equal(found["c"], whole.T)


def test_a_saving_that_fails_halfway_leaves_what_was_there(bucket, faulty_s3, monkeypatch):
    monkeypatch.setattr(files.retry, "FIRST_WAIT_S", 0.01)
    save_arrays(bucket, RECORD, arrays(1))
    names = list_names(bucket)
    faulty_s3.inject("error-500", method="PUT", contains="second-")
    with pytest.raises(StorageError, match="second-"):
        save_arrays(bucket, {}, {"gram": np.eye(2), "second": arrays()["features"]})
    faulty_s3.clear()
    assert list_names(bucket) == names
    record, found = open_arrays(bucket)
    assert record == RECORD
    np.testing.assert_array_equal(found["gram"], arrays(1)["gram"])


def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path):
    place = str(tmp_path / "m")
    for name, values in (("../up", np.eye(2)), ("complex", np.eye(2, dtype=complex)), ("o", np.array([None]))):
        with pytest.raises(ValueError, match="cannot be"):
            save_arrays(place, {}, {name: values})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_arrays(place, {"x": float("nan")}, {"a": np.eye(2)})
    assert not (tmp_path / "m").exists()


def test_saving_anew_replaces_all_and_old_maps_stay_readable(folder):
    save_arrays(folder, RECORD, arrays(1))
    _, old = open_arrays(folder)
    save_arrays(folder, {"new": 1}, {"gram": np.eye(3)})
    record, found = open_arrays(folder)
    assert record == {"new": 1}
    assert list(found) == ["gram"]
    assert len(list_names(folder)) == 2
    np.testing.assert_array_equal(old["features"], arrays(1)["features"])


def test_an_upload_that_fails_is_made_again(bucket, faulty_s3, monkeypatch):
    monkeypatch.setattr(files.retry, "FIRST_WAIT_S", 0.01)
    fault = faulty_s3.inject("error-500", times=3, method="PUT", contains="features-")
    save_arrays(bucket, RECORD, arrays())
    assert fault.done == 3
    fault = faulty_s3.inject("drop-answer", times=2, method="GET", contains="gram-")
    np.testing.assert_array_equal(open_arrays(bucket)[1]["gram"], arrays()["gram"])
    assert fault.done == 2


def test_a_store_that_refuses_leaves_no_half_manifold(bucket, faulty_s3, monkeypatch, tmp_path):
    monkeypatch.setattr(files.retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    faulty_s3.inject("error-500", method="PUT", contains="strided-")
    with pytest.raises(StorageError, match="strided-"):
        save_arrays(bucket, RECORD, arrays())
    assert list_names(bucket) == set()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StorageError, match=r"manifold\.json: does not exist: no manifold is saved there"):
        open_arrays(bucket)


def test_truncated_tampered_and_missing_arrays_are_named(folder):
    save_arrays(folder, RECORD, arrays())
    gram = file_of(folder, "gram")
    whole = read_bytes(gram)
    write_atomic(gram, whole[:-8])
    size = len(whole)
    with pytest.raises(StorageError, match=rf"gram-\w+\.safetensors: has {size - 8} bytes instead of {size}: "):
        open_arrays(folder)
    write_atomic(gram, whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(StorageError, match=r"gram-\w+\.safetensors: has SHA-256 \w+ instead of .* make the manifold"):
        open_arrays(folder)
    files.delete(gram)
    with pytest.raises(StorageError, match=r"gram-\w+\.safetensors: does not exist, and manifold\.json beside it"):
        open_arrays(folder)
    write_atomic(gram, whole)
    np.testing.assert_array_equal(open_arrays(folder)[1]["gram"], arrays()["gram"])


def test_a_record_of_another_version_or_changed_by_hand(folder):
    save_arrays(folder, RECORD, arrays())
    place = join(folder, "manifold.json")
    whole = read_bytes(place)

    def expect(data: bytes, message: str) -> None:
        write_atomic(place, data)
        with pytest.raises(StorageError, match=message) as caught:
            open_arrays(folder)
        assert "manifold.json" in str(caught.value)

    content = json.loads(whole)
    expect(json.dumps(content | {"version": 2}).encode(), "has format version 2, and this dmt_ray reads version 1")
    expect(json.dumps(content | {"format": "other"}).encode(), "is a record of 'other'")
    expect(whole.replace(b'"size": 96', b'"size": 64'), "does not match its own checksum")
    for data in (b"", whole[: len(whole) // 2], b"[1, 2]", b"\xff\xfe"):
        expect(data, "is no manifold's record, or a damaged one")

    def resealed(**changes: object) -> bytes:
        changed = {key: value for key, value in (content | changes).items() if key != "sha256"}
        return json.dumps(changed | {"sha256": manifolds._digest(changed)}).encode()

    entry = content["arrays"]["gram"]
    expect(resealed(arrays={"gram": entry | {"file": "../../etc/passwd"}}), "names files that no manifold has")
    expect(resealed(arrays={"gram": entry | {"shape": "many"}}), "is not a manifold's record")
    expect(resealed(arrays={"gram": {"file": entry["file"]}}), "is not a manifold's record")
    wrong: list[dict[str, object]] = [
        *({"shape": shape} for shape in ([2**32, 2**32], [-1, 7], [7, -7], [2**63], [2**40], [0, 2**62], [10**40])),
        *({"shape": shape} for shape in ([7.0, 7], [True, 49], ["7", 7], [[7], 7], [None], 49, None, {}, [1] * 99)),
        *({"size": size} for size in ("520", -1, None, [], 1.5, True, 10**40, 7)),
        *({"dtype": dtype} for dtype in ("F128", None, 64, [], {})),
        *({"sha256": sha256} for sha256 in (None, 0, "", "g" * 64, [])),
        *({"file": file} for file in (None, 0, [], "")),
    ]
    for change in wrong:
        expect(resealed(arrays={"gram": entry | change}), "is not a manifold's record")
    for changes in ({"arrays": []}, {"arrays": None}, {"arrays": {"gram": []}}, {"record": 5}, {"record": None}):
        expect(resealed(**changes), "is not a manifold's record")
    for changes in ({"format": 5}, {"format": []}, {"version": "1"}, {"version": True}, {"version": None}):
        expect(resealed(**changes), "is no manifold's record, or a damaged one")
    deep = b"[" * 100_000 + b"]" * 100_000
    for data in (deep, b'{"format": ' + deep + b"}", whole.replace(b'"size": 96', b'"size": ' + deep)):
        expect(data, "is no manifold's record, or a damaged one")
    expect(whole.replace(b'"size": 96', b'"size": ' + b"9" * 5000), "is no manifold's record, or a damaged one")
    write_atomic(place, whole)
    assert open_arrays(folder)[0] == RECORD


def test_a_damaged_record_is_replaced_or_deleted(tmp_path):
    place = str(tmp_path)
    save_arrays(place, RECORD, arrays())
    write_atomic(join(place, "manifold.json"), b"[" * 100_000)
    save_arrays(place, {"new": 1}, {"gram": np.eye(3)})
    assert open_arrays(place)[0] == {"new": 1}
    write_atomic(join(place, "manifold.json"), b"[" * 100_000)
    write_atomic(join(place, "other.txt"), b"")
    delete_arrays(place)
    assert list_names(place) == {"other.txt"}


def test_a_file_that_is_not_the_array_of_the_record(tmp_path):
    """Sound checksums around a wrong header: what a faulty writer would leave."""
    place = str(tmp_path)
    save_arrays(place, {}, {"gram": np.eye(4)})
    content = json.loads(read_bytes(join(place, "manifold.json")))
    content.pop("sha256")
    content["arrays"]["gram"]["shape"] = [2, 8]
    write_atomic(join(place, "manifold.json"), json.dumps(content | {"sha256": manifolds._digest(content)}).encode())
    with pytest.raises(StorageError, match=r"holds F64 \(4, 4\), not F64 \(2, 8\)"):
        open_arrays(place)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 2000,
        b'{"array": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"array": {"dtype": "F64", "shape": 4, "data_offsets": [0, 32]}}',
        b'{"array": {"dtype": "F64", "shape": [4], "data_offsets": ["0", "32"]}}',
        b'{"array": {"dtype": "F64", "shape": [4], "data_offsets": []}}',
        b'{"array": {"dtype": "F64", "shape": [4]}}',
        b'{"other": {}}',
        b"[]",
        b"\xff",
        b"",
    ],
)
def test_a_file_whose_header_is_none(tmp_path, header):
    place = str(tmp_path)
    save_arrays(place, {}, {"gram": np.eye(2).ravel()})
    data = len(header).to_bytes(8, "little") + header + bytes(32)
    write_atomic(file_of(place, "gram"), data)
    content = json.loads(read_bytes(join(place, "manifold.json")))
    content.pop("sha256")
    content["arrays"]["gram"] |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(join(place, "manifold.json"), json.dumps(content | {"sha256": manifolds._digest(content)}).encode())
    with pytest.raises(StorageError, match=r"gram-\w+\.safetensors: is not a safetensors file of one array; make"):
        open_arrays(place)


def test_manifolds_are_read_without_torch():
    code = "import sys, dmt_ray.storage.models.manifolds; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"
    )


def test_downloads_are_kept_under_their_checksum_and_mended(bucket, faulty_s3, cache, caplog):
    save_arrays(bucket, RECORD, arrays())
    open_arrays(bucket)
    assert len(list(cache.iterdir())) == len(arrays())
    faulty_s3.clear()
    open_arrays(bucket)
    assert faulty_s3.requests("GET") == 1  # the record
    path = cache / f"{json.loads(read_bytes(join(bucket, 'manifold.json')))['arrays']['gram']['sha256']}.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"\x55")
    with caplog.at_level(logging.WARNING, "dmt_ray"):
        np.testing.assert_array_equal(open_arrays(bucket)[1]["gram"], arrays()["gram"])
    assert "Downloading again what is damaged in the cache" in caplog.text
    assert path.read_bytes() == data


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        save_arrays(str(tmp_path / "file" / "m"), {}, arrays())
    if os.geteuid() != 0:
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(StorageError, match=r"(?i)permission denied"):
            save_arrays(str(tmp_path / "closed" / "m"), {}, arrays())

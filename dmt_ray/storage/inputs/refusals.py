"""Files that are named as inputs and can be none: each is refused by what it is, with what to do."""

from __future__ import annotations

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.passed_over import suffix_of

_UNPACK = "unpack it and name the folder"
_CONVERT = "write its rows as Parquet or CSV (with a column of encoded images or of their paths)"
_KINDS: dict[tuple[str, ...], tuple[str, str]] = {
    (".zip", ".7z", ".rar", ".cab"): ("an archive of another kind than .tar", f"{_UNPACK}, or pack it as .tar"),
    (".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"): (
        "compressed, so no single image can be read from it",
        "decompress it to .tar",
    ),
    (".gz", ".bz2", ".xz", ".zst"): ("compressed", "decompress it"),
    (".jsonl", ".ndjson", ".json"): (
        "JSON and no image",
        f"{_CONVERT}; or, where it is the metadata.jsonl beside images, name their folder",
    ),
    (".arrow", ".feather", ".avro", ".orc", ".xlsx", ".xls", ".ods", ".sqlite", ".duckdb"): (
        "a table of a kind that is not read",
        _CONVERT,
    ),
    (".npy", ".npz", ".h5", ".hdf5", ".mat", ".tfrecord", ".lmdb", ".mdb", ".pt", ".pth", ".pkl", ".safetensors"): (
        "a file of arrays or records",
        "write its pictures as image files, Parquet or .tar",
    ),
    (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"): (
        "a video",
        "extract its frames as images and name their folder",
    ),
    (".pdf", ".svg", ".eps", ".ai", ".psd"): ("a document and no photo", "export it as PNG or TIFF"),
}


def refuse(file: str) -> None:
    """Raise SettingsError for a file whose suffix says that it is neither an image nor what images are listed by."""
    ending = suffix_of(file)
    for suffixes, (what, remedy) in _KINDS.items():
        if ending in suffixes:
            raise SettingsError(f"{masked(file)} is {what}; {remedy}.")

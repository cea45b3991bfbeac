"""The only door to files: local paths and every URI that fsspec knows (``s3://``, ``gs://``, ``memory://``, ...).

A place without ``scheme://`` is a local path. Listings give full URIs (plain absolute paths for local files), which
every other function here takes. Names that start with a dot are hidden: listings skip them.
"""

from dmt_ray.masking import fingerprint_uri, masked
from dmt_ray.storage.errors import ChangedFileError, RefusedError, StorageError, TooLargeError
from dmt_ray.storage.files.listing import (
    exists,
    identity,
    list_files,
    list_identified,
    list_names,
    listing_root,
    modified_times,
)
from dmt_ray.storage.files.policy import ListPolicy
from dmt_ray.storage.files.reading import fetch, open_file, read_bytes, read_range
from dmt_ray.storage.files.uris import absolute, is_local, join, resolve
from dmt_ray.storage.files.writing import (
    check_writable,
    create_new,
    delete,
    move,
    open_new,
    staged,
    sweep_temporary,
    write_atomic,
    write_new,
)

__all__ = [
    "ChangedFileError",
    "ListPolicy",
    "RefusedError",
    "StorageError",
    "TooLargeError",
    "absolute",
    "check_writable",
    "create_new",
    "delete",
    "exists",
    "fetch",
    "fingerprint_uri",
    "identity",
    "is_local",
    "join",
    "list_files",
    "list_identified",
    "list_names",
    "listing_root",
    "masked",
    "modified_times",
    "move",
    "open_file",
    "open_new",
    "read_bytes",
    "read_range",
    "resolve",
    "staged",
    "sweep_temporary",
    "write_atomic",
    "write_new",
]

"""The dataset card: a ``README.md`` that tells ``datasets.load_dataset(FOLDER)`` which files and columns there are.

The shards hold pictures as plain bytes, which every reader of Parquet can read; the card says that they are images.
"""

from __future__ import annotations

import logging

import pyarrow as pa
import yaml

from dmt_ray.errors import DmtError
from dmt_ray.output.dataset_features import features_of, features_yaml
from dmt_ray.output.expected import Expected
from dmt_ray.output.schema import column_name
from dmt_ray.storage import files
from dmt_ray.storage.files import masked

logger = logging.getLogger(__name__)

CARD_FILE = "README.md"

#: In every card of this program: a file without it is somebody's own and is left alone.
_MARK = "<!-- dmt_ray: this card is written by the program; delete this line to keep your own text -->"
#: A larger file is no card of this program, unless its table has tens of thousands of columns.
_MAX_BYTES = 2**23


def image_columns(version: int) -> tuple[str, ...]:
    """Return the columns of encoded pictures in files of a schema version."""
    return "image", column_name("animation", version)


def card_bytes(title: str, text: str, data_files: str, schema: pa.Schema, images: tuple[str, ...]) -> bytes:
    """Return a dataset card.

    Parameters:
        title: its heading.
        text: what follows.
        data_files: a pattern of the Parquet files, relative to the card.
        schema: of these files.
        images: their columns of encoded pictures.
    """
    features = features_of(schema, images)
    config: dict[str, object] = {"config_name": "default", "data_files": data_files}
    if len(features) < len(schema):  # datasets has no such type: it is told which columns to read
        config["columns"] = list(features)
    head = {"configs": [config], "dataset_info": {"features": features_yaml(features)}}
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n{_MARK}\n\n# {title}\n\n{text}\n".encode()


def output_card(expected: Expected, data_files: str) -> bytes:
    """Return the card of a run's shards, or of the files that they were merged into.

    Parameters:
        expected: what the run's files are.
        data_files: a pattern of the files, relative to the card.
    """
    text = (
        f"The rows are in `{data_files}`: one for each photo and strength, with the picture in `image`, how it was "
        "made, or why there is none (`status` is `error`).\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'rows = load_dataset("FOLDER_OF_THIS_FILE", split="train")\nrows[0]["image"].show()\n```'
    )
    return card_bytes("Photos edited by dmt_ray", text, data_files, expected.schema, image_columns(expected.version))


def is_own_card(folder: str) -> bool:
    """Tell whether a folder's ``README.md`` was written by this program."""
    try:
        return _MARK.encode() in files.read_bytes(files.join(folder, CARD_FILE), max_bytes=_MAX_BYTES)
    except DmtError:
        return False


def write_card(folder: str, card: bytes) -> None:
    """Write a folder's card, also in place of an earlier one; somebody's own ``README.md`` is left as it is.

    Raises:
        StorageError: it cannot be written.
    """
    uri = files.join(folder, CARD_FILE)
    if files.write_new(uri, card):
        return
    if is_own_card(folder):
        if files.read_bytes(uri) != card:
            files.write_atomic(uri, card)
        return
    logger.info("%s is not of this program and is left as it is.", masked(uri))

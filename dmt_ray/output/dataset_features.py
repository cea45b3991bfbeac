"""What the columns of a table are to the Hugging Face library ``datasets``, without that library.

Its features are written in two forms: as JSON in the metadata of a Parquet schema, and as YAML in a dataset card.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

#: What ``datasets`` stores an image as.
IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
#: In the metadata of a Parquet schema.
FEATURES_KEY = "huggingface"

_IMAGE = {"_type": "Image"}
#: Arrow's names of types that have another name in ``datasets``.
_OTHER_NAMES = {
    "halffloat": "float16",
    "float": "float32",
    "double": "float64",
    "date32[day]": "date32",
    "date64[ms]": "date64",
}
_SAME_NAME = (
    *(pa.types.is_null, pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_date),
    *(pa.types.is_time, pa.types.is_timestamp, pa.types.is_duration, pa.types.is_decimal128, pa.types.is_decimal256),
    *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary),
    *(pa.types.is_string, pa.types.is_large_string),
)

Features = dict[str, Any]


def features_of(schema: pa.Schema, images: Collection[str]) -> Features:
    """Return the features of a table's columns, as ``datasets`` writes them into JSON.

    Parameters:
        schema: of the table.
        images: columns of encoded pictures, as bytes or as ``IMAGE_TYPE``.

    Returns:
        By column, in order. Columns of types that ``datasets`` has not (a map, a union) are left out.
    """
    found = {field.name: dict(_IMAGE) if field.name in images else _feature(field.type) for field in schema}
    return {name: feature for name, feature in found.items() if feature is not None}


def features_metadata(features: Features) -> dict[str, str]:
    """Return the entry of a Parquet schema's metadata from which ``datasets`` reads the features."""
    return {FEATURES_KEY: json.dumps({"info": {"features": features}})}


def features_yaml(features: Features) -> list[dict[str, Any]]:
    """Return features as the list that a dataset card's ``dataset_info`` has."""
    return [{"name": name, **_simple(feature)} for name, feature in features.items()]


def _feature(kind: pa.DataType) -> Any:
    """Return the feature of one type; None where there is none."""
    if pa.types.is_dictionary(kind):
        return _feature(kind.value_type)
    if pa.types.is_struct(kind):
        parts = {field.name: _feature(field.type) for field in kind}
        return None if None in parts.values() or not parts else parts
    if pa.types.is_large_list(kind) or pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _feature(kind.value_type)
        if inner is None:
            return None
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"feature": inner, **length, "_type": "LargeList" if pa.types.is_large_list(kind) else "List"}
    if any(is_kind(kind) for is_kind in _SAME_NAME):
        name = str(kind)
        return {"dtype": _OTHER_NAMES.get(name, name), "_type": "Value"}
    return None


def _simple(feature: Mapping[str, Any]) -> dict[str, Any]:
    """Return a feature in the form of YAML."""
    kind = feature.get("_type")
    if kind == "Value":
        return {"dtype": feature["dtype"]}
    if kind == "Image":
        return {"dtype": "image"}
    if kind in ("List", "LargeList"):
        inner: Any = _simple(feature["feature"])
        if list(inner) in (["dtype"], ["struct"]):
            (inner,) = inner.values()
        length = {"length": feature["length"]} if "length" in feature else {}
        return {"list" if kind == "List" else "large_list": inner, **length}
    return {"struct": features_yaml(dict(feature))}

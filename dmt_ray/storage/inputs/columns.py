"""Which column of a table holds the images or their URIs, and which others become input columns."""

from __future__ import annotations

import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.formats import Place

_BYTES_NAMES = (
    *("image", "bytes", "image_bytes", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "data", "content"),
)
_URI_NAMES = (
    *("uri", "url", "path", "image_uri", "image_url", "image_path", "file", "filename", "file_name", "file_path"),
    *("filepath", "image", "img"),
)


def choose_column(place: Place, uri: str, schema: pa.Schema) -> tuple[str, bool]:
    """Return the name of the column to read of a table, and whether it holds URIs.

    A named one is taken as it is. Otherwise: encoded bytes under a usual name, one struct with ``bytes``, URIs under
    a usual name, or the only column of bytes.

    Raises:
        SettingsError: none, or more than one, could be meant.
    """
    if place.image_column is not None:
        return place.image_column, False
    if place.uri_column is not None:
        return place.uri_column, True
    images = usual_images(schema)
    if images is not None:
        return images, False
    binary = [field.name for field in schema if is_bytes(field.type)]
    text = {field.name.lower(): field.name for field in schema if is_text(field.type)}
    for name in _URI_NAMES:
        if name in text:
            return text[name], True
    if len(binary) == 1:
        return binary[0], False
    options = place.options
    raise SettingsError(
        f"Cannot tell which column of {masked(uri)} holds the images: name it with {options.image_column} (encoded "
        f"bytes) or {options.uri_column} (URIs). Columns: {described(schema)}."
    )


def usual_images(schema: pa.Schema) -> str | None:
    """Return the column of encoded bytes under a usual name, or the one struct with ``bytes``; None without."""
    binary: dict[str, str] = {field.name.lower(): field.name for field in schema if is_bytes(field.type)}
    for name in _BYTES_NAMES:
        if name in binary:
            return binary[name]
    pictures: list[str] = [field.name for field in schema if pa.types.is_struct(field.type) and is_bytes(field.type)]
    return pictures[0] if len(pictures) == 1 else None


def check_column(place: Place, uri: str, schema: pa.Schema, name: str, is_uri: bool) -> None:
    """See that a table has a column of the right type.

    Raises:
        SettingsError: it has not; says what it has.
    """
    options = place.options
    option, need = (options.uri_column, "strings") if is_uri else (options.image_column, "encoded image bytes")
    if name not in schema.names:
        raise SettingsError(f"{masked(uri)} has no column {name!r} ({option}). Columns: {described(schema)}.")
    kind = schema.field(name).type
    if not (is_text(kind) if is_uri else is_bytes(kind)):
        raise SettingsError(f"Column {name!r} of {masked(uri)} holds {kind}; {option} needs {need}.")


def plain_columns(schema: pa.Schema, without: set[str]) -> pa.Schema:
    """Return the columns of a table but some, with plain types: no dictionaries, views or extensions."""
    return pa.schema([(field.name, _plain(field.type)) for field in schema if field.name not in without])


def unify(schemas: list[tuple[str, pa.Schema]]) -> pa.Schema:
    """Return one schema for the input columns of several files.

    Parameters:
        schemas: each file's URI and what ``plain_columns`` makes of its schema.

    Raises:
        SettingsError: a column has types that cannot be brought together.
    """
    unified: pa.Schema = pa.schema([])
    for uri, schema in schemas:
        if schema.equals(unified):
            continue
        try:
            unified = pa.unify_schemas([unified, schema], promote_options="permissive")
        except (pa.ArrowException, TypeError) as error:
            raise SettingsError(
                f"{masked(uri)} has a column of another type than the files before it: {error}. Files of one dataset "
                "must agree in their columns' types."
            ) from error
    return unified


def is_bytes(kind: pa.DataType) -> bool:
    """Tell whether a column can hold encoded images: bytes, or structs with ``bytes`` as Hugging Face writes them."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and is_bytes(kind.field(index).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds strings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_id(kind: pa.DataType) -> bool:
    """Tell whether a column's values can be ids."""
    return is_text(kind) or bool(pa.types.is_integer(kind))


def described(schema: pa.Schema) -> str:
    """Return the columns' names and types in words."""
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    return kind

"""SQL conditions over the columns of a table.

They run in a DuckDB of their own that holds nothing but that table and reaches no file and no network.
"""

from __future__ import annotations

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dmt_ray.errors import SettingsError
from dmt_ray.storage.files import masked
from dmt_ray.storage.inputs.columns import described

_ROW = "__dmt_ray_row"
#: Errors of DuckDB that quote the value of a row.
_QUOTING_ERRORS = (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException)
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
}


def matching_rows(table: pa.Table, condition: str, place: str) -> npt.NDArray[np.int64]:
    """Return the numbers of the rows for which a condition is true, rising.

    Parameters:
        table: without a column called ``__dmt_ray_row``.
        condition: one SQL expression over its columns.
        place: where the table is from, for messages.

    Raises:
        SettingsError: the condition is not one sound expression; names the columns.
    """
    numbered = table.append_column(_ROW, pa.array(np.arange(table.num_rows)))
    with duckdb.connect(":memory:", config=_CLOSED) as connection:
        connection.execute("SET lock_configuration = true")
        try:
            # ``filter`` takes one expression and nothing else: no second statement, no clause after it.
            found = connection.from_arrow(numbered).filter(condition).project(f'"{_ROW}"').fetchnumpy()[_ROW]
        except duckdb.Error as error:
            reason = " ".join(str(error).split("\n\n")[0].split()).rstrip(".")
            if isinstance(error, _QUOTING_ERRORS):
                reason = "Conversion Error: could not convert a value to the type that the filter takes it for"
            raise SettingsError(
                f"The filter {condition!r} cannot be used on {masked(place)}: {reason}. It must be one SQL "
                f'expression, such as "Smiling < 0 AND Male > 0". Columns: {described(table.schema)}.'
            ) from error
    return np.sort(np.asarray(found, np.int64))

"""What the shard files of a run must be: how many rows, of which settings, in which columns."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from dmt_ray.output.plan import Plan
from dmt_ray.output.plan_file import Shard
from dmt_ray.output.schema import ROW_SCHEMAS, SCHEMA_VERSION, row_schema


@dataclass(frozen=True)
class Expected:
    """What a run's shard files must be."""

    output: str
    steps: int
    """Rows per image."""
    fingerprint: str
    input_columns: pa.Schema
    traversal_only: bool = False
    """The run saves displacements and no images."""
    version: int = SCHEMA_VERSION
    """Schema version of every file."""

    @classmethod
    def of(
        cls,
        output: str,
        plan: Plan,
        steps: int,
        fingerprint: str,
        *,
        traversal_only: bool = False,
        version: int = SCHEMA_VERSION,
    ) -> Expected:
        """Return it for the run at ``output``."""
        return cls(output, steps, fingerprint, plan.input_columns, traversal_only, version)

    @property
    def schema(self) -> pa.Schema:
        """All columns of a file."""
        return row_schema(self.input_columns, self.version)

    @property
    def own_schema(self) -> pa.Schema:
        """The columns of a file that are not the input's."""
        return ROW_SCHEMAS[self.version]

    def stamp(self, shard: Shard) -> str:
        """Return the stamp of one of the run's shards."""
        return shard_stamp(self.fingerprint, (item.id for item in shard.items))


def shard_stamp(fingerprint: str, ids: Iterable[str]) -> str:
    """Return what tells a shard of this run from one of other settings or other images.

    Parameters:
        fingerprint: of the run's settings.
        ids: of the shard's images, in the plan's order.
    """
    return hashlib.sha256("\n".join([fingerprint, *ids]).encode()).hexdigest()

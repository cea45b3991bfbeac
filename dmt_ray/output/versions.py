"""Of which schema version is an output, and may this program add rows to it?"""

from __future__ import annotations

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import committed_shards, shard_uri
from dmt_ray.output.expected import Expected
from dmt_ray.output.plan import Plan
from dmt_ray.output.run_record import read_run
from dmt_ray.output.schema import LAST_UNNUMBERED_VERSION, SCHEMA_VERSION
from dmt_ray.output.shard_file import DamagedShardError, each, file_version, reading_shard
from dmt_ray.storage import files


def output_version(output: str) -> int:
    """Return the schema version of the output of a run: what ``run.json`` says, else what its shards' files are.

    An output without either has the last version that did not say it.

    Raises:
        SettingsError: there is no ``run.json``, it is not one of ours, or a later version of this program wrote it.
        StorageError: a file cannot be read.
    """
    record = read_run(output)
    version = record.schema_version
    if version is None:
        return _version_of_shards(output)
    if version > SCHEMA_VERSION:
        raise SettingsError(
            f"{files.masked(record.uri)} is of schema version {version}, and this program knows versions up to "
            f"{SCHEMA_VERSION}: use the "
            "version of dmt_ray that wrote it."
        )
    return version


def check_can_add(output: str) -> None:
    """See that the output of a run is of the schema version that this program writes.

    Raises:
        SettingsError: it is of another one; says which, and what to do.
        StorageError: a file cannot be read.
    """
    version = output_version(output)
    if version != SCHEMA_VERSION:
        raise SettingsError(
            f"{files.masked(output)} is of schema version {version}, and this program writes version "
            f"{SCHEMA_VERSION}: an output has rows of one version. Finish it with the version of dmt_ray that began "
            "it, or name another --output."
        )


def recorded_expected(output: str, plan: Plan) -> Expected:
    """Return what the shard files of a run must be, as its ``run.json`` says.

    Raises:
        SettingsError: there is no ``run.json``, it is not one of ours, or a later version of this program wrote it.
        StorageError: a file cannot be read.
    """
    record = read_run(output)
    return Expected.of(
        output,
        plan,
        record.steps,
        record.fingerprint,
        traversal_only=record.option("output", "traversal_only") is True,
        version=output_version(output),
    )


def _version_of_shards(output: str) -> int:
    """Return the latest version of the files that can be read."""

    def version(number: int) -> int | None:
        uri = shard_uri(output, number)
        try:
            with reading_shard(uri) as file:
                return file_version(file, uri)
        except DamagedShardError:
            return None

    found = [number for number in each(version, sorted(committed_shards(output))) if number is not None]
    return max(found, default=LAST_UNNUMBERED_VERSION)

"""Move damaged files of an output, and those of no planned shard, aside, so that the next run makes shards again."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from dmt_ray.errors import SettingsError
from dmt_ray.output.commit import SHARDS_FOLDER, shard_name
from dmt_ray.output.plan_file import PLAN_FILE
from dmt_ray.output.report import VerifyReport
from dmt_ray.output.run_record import RUN_FILE
from dmt_ray.storage import files
from dmt_ray.words import agreed, counted

#: Beside the shards' folder, where no reader of the shards looks.
DISCARDED_FOLDER = "discarded"


def discard_unsound(output: str, report: VerifyReport) -> list[str]:
    """Move the files of damaged shards, and those of no planned shard, into ``discarded/``. Nothing is deleted.

    A file keeps its name there, with a number behind it where the name is taken. Folders stay where they are.

    Parameters:
        output: the folder or URI of a run.
        report: what ``verify_output`` found there.

    Returns:
        Where the files are now.

    Raises:
        SettingsError: most files are of other settings, images or columns than the run, so ``run.json`` or the plan
            is probably another run's. Nothing was moved.
        StorageError: a file cannot be moved.
    """
    if 2 * len(report.foreign) > report.present:
        first = min(report.foreign)
        raise SettingsError(
            f"{len(report.foreign)} of {counted(report.present, 'shard')} in {files.masked(output)} "
            f"{agreed(len(report.foreign), 'is', 'are')} not of the run that its {RUN_FILE} and {PLAN_FILE} describe "
            f"({shard_name(first)}: {report.damaged[first]}), so one of these two files is probably another run's. "
            "Nothing was moved; put the right file back."
        )
    names = [*map(shard_name, sorted(report.damaged)), *report.strangers]
    folder = files.join(output, DISCARDED_FOLDER)
    taken = files.list_names(folder)
    moved = []
    for name in names:
        source = files.join(output, SHARDS_FOLDER, name)
        if not _is_file(source):
            continue
        free = next(new for new in _names_for(name) if new not in taken)
        taken.add(free)
        moved.append(files.join(folder, free))
        files.move(source, moved[-1])
    return moved


def _names_for(name: str) -> Iterator[str]:
    return itertools.chain([name], (f"{name}.{number}" for number in itertools.count(1)))


def _is_file(uri: str) -> bool:
    """Tell a file from a folder, which stays where it is, and from what is gone."""
    return files.list_files(uri) == [files.absolute(uri)]

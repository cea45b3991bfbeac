"""Tells the files of runs' outputs from inputs: an output may lie inside the folder that its input is."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Collection

from dmt_ray.storage import files
from dmt_ray.storage.files.uris import escaped, local_path
from dmt_ray.storage.inputs.listing import folder_of

#: A folder with both is the output of a run.
_MARKS = ("run.json", "plan.parquet")
#: What a run leaves in its output; the rest of a folder that is input and output at once is input.
_FOLDERS = ("shards", "manifold", "discarded", "report")
_FILES = (*_MARKS, "README.md")


def files_of_outputs(found: Collection[str], root: str, output: str | None) -> set[str]:
    """Return those of the files that lie in outputs of runs.

    Parameters:
        found: the files of a place.
        root: the folder that they lie in.
        output: the output of the run that reads them, whether it exists yet or not.
    """
    top = root.rstrip("/")
    folders = {folder_of(file) for file in found if posixpath.basename(file) == _MARKS[0]}
    folders = {folder for folder in folders if files.join(folder, _MARKS[1]) in found}
    own = None if output is None else _place_inside(output, top)
    if own is not None:
        folders.add(own)
    if not folders:
        return set()
    beginnings = [f"{folder}/" for folder in folders if folder != top]
    belonging: set[str] = set()
    if top in folders:
        belonging.update(name for file in _FILES if (name := f"{top}/{file}") in found)
        beginnings += [f"{top}/{folder}/" for folder in _FOLDERS]
    # By their parents: a place may hold a million files.
    inside: dict[str, bool] = {}
    for file in found:
        parent = folder_of(file)
        if parent not in inside:
            inside[parent] = f"{parent}/".startswith(tuple(beginnings))
        if inside[parent]:
            belonging.add(file)
    return belonging


def _place_inside(folder: str, root: str) -> str | None:
    """Return a folder as a place under ``root``, or as ``root`` itself; None where it lies elsewhere."""
    if files.is_local(folder) != files.is_local(root):
        return None
    if files.is_local(folder):
        real, top = (os.path.realpath(local_path(place)) for place in (folder, root or "/"))
        inside = os.path.relpath(real, top)
        if inside == ".." or inside.startswith("../"):
            return None
        return root if inside == "." else files.join(root, escaped(inside))
    place = folder.rstrip("/")
    return place if place == root or place.startswith(f"{root}/") else None

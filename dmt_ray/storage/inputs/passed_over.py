"""What a listing finds and does not list, counted by suffix, so that nothing goes missing without a word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dmt_ray.storage.images import image_suffixes, suffixes_of_missing_formats
from dmt_ray.words import agreed, counted

#: Text and data that lie beside pictures and are never pictures themselves, by suffix.
SIDECAR_SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("txt", "lst", "json", "jsonl", "ndjson", "csv", "tsv", "xml", "yaml", "yml", "toml", "ini", "log", "cls"),
        *("md", "rst", "html", "htm", "py", "ipynb", "sh", "xmp", "aae", "caption", "tags", "md5", "sha256", "url"),
        *("npy", "npz", "pt", "pth", "pkl", "pickle", "safetensors", "onnx", "bin", "index", "db", "lock", "part"),
    )
)
#: What stands in messages where a name has no suffix.
_NO_SUFFIX = "without a suffix"
_SIDECAR_NAMES = frozenset({"readme", "license", "licence", "copying", "makefile", "dockerfile", "notice", "authors"})
_SUFFIX = re.compile(r"(\.tar)?\.[a-z0-9_+~-]{1,12}$")
_MOST_NAMED = 8
_FILE, _MEMBER = ("file", "files"), ("member of archives", "members of archives")


@dataclass(frozen=True)
class PassedOver:
    """Counts of files, and of members of archives, that are not listed. Hidden names are not counted."""

    unreadable: Mapping[str, int] = field(default_factory=dict)
    """Files of no kind that is read, by suffix."""
    sidecars: Mapping[str, int] = field(default_factory=dict)
    """Text and data beside the pictures, by suffix."""
    unreadable_members: Mapping[str, int] = field(default_factory=dict)
    """Members of archives that are no images that can be read, by suffix."""
    sidecar_members: Mapping[str, int] = field(default_factory=dict)
    """Members of archives beside the images that become no column, by suffix."""
    other_kinds: Mapping[str, int] = field(default_factory=dict)
    """Files of another kind of input than the one that is listed, by the kind's name."""
    outputs: int = 0
    """Files of the outputs of runs."""
    remarks: tuple[str, ...] = ()
    """Sentences on what else is left out."""

    def sentences(self, kind: str = "", kind_option: str | None = None) -> list[str]:
        """Return what there is to tell, one sentence each; none where nothing was passed over.

        Parameters:
            kind: name of the kind of input that is listed.
            kind_option: the option that decides it, such as ``--input-kind``.
        """
        said = []
        for nouns, counts in ((_FILE, self.unreadable), (_MEMBER, self.unreadable_members)):
            if counts:
                count = sum(counts.values())
                are = agreed(count, "is no image", "are no images")
                said.append(f"{counted(count, *nouns)} {are} that can be read: {_by_suffix(counts)}.{_hint(counts)}")
        if self.other_kinds:
            others = ", ".join(counted(count, f"{_of_kind(name)} file") for name, count in self.other_kinds.items())
            choose = "" if kind_option is None else f" {kind_option} decides otherwise."
            taken = f"The images are taken from the {_of_kind(kind)} files"
            said.append(f"{taken}; passed over as inputs: {others}.{choose}")
        for nouns, counts in ((_FILE, self.sidecars), (_MEMBER, self.sidecar_members)):
            if counts:
                beside = f"{counted(sum(counts.values()), *nouns)} beside the images"
                said.append(f"{beside}, left alone: {_by_suffix(counts)}.")
        if self.outputs:
            belong = f"{counted(self.outputs, 'file')} {agreed(self.outputs, 'belongs', 'belong')} to outputs of runs"
            said.append(f"{belong} and {agreed(self.outputs, 'is no input', 'are no inputs')}.")
        return [*said, *self.remarks]

    def as_json(self) -> dict[str, Any]:
        """Return the counts for ``run.json``, without those that are 0; an empty key is a name without a suffix."""
        return {name: list(value) if name == "remarks" else value for name, value in vars(self).items() if value}


def suffix_of(name: str) -> str:
    """Return a file name's suffix in lower case, such as ``.heic`` or ``.tar.gz``.

    Empty where it has none; names such as README, which need none, are returned whole.
    """
    name = name.rpartition("/")[2].lower()
    match = _SUFFIX.search(name, 1)
    return match[0] if match is not None else name if name in _SIDECAR_NAMES else ""


def in_two(counts: Counter[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Part counts by suffix, the most frequent first.

    Returns:
        What may be pictures, or anything else that is not read; and text, data and other images beside pictures.
    """
    beside = SIDECAR_SUFFIXES | _SIDECAR_NAMES | image_suffixes()
    ordered = sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    return {key: n for key, n in ordered if key not in beside}, {key: n for key, n in ordered if key in beside}


def _of_kind(name: str) -> str:
    """Return the name of a kind of input as it stands before "file"."""
    return "image" if name == "images" else name


def _by_suffix(counts: Mapping[str, int]) -> str:
    named = [f"{count} {ending or _NO_SUFFIX}" for ending, count in list(counts.items())[:_MOST_NAMED]]
    more = len(counts) - len(named)
    return ", ".join(named) + (f" and {counted(more, 'more kind')}" if more else "")


def _hint(counts: Mapping[str, int]) -> str:
    """Name the extra that reads some of the files, where it is not installed."""
    known = [ending for ending in counts if ending in suffixes_of_missing_formats()]
    return f' To read {", ".join(known)}: pip install "dmt-ray[formats]".' if known else ""

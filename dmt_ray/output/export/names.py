"""Names of exported pictures: made from ids, safe on every file system, and no two the same.

An id may come from a table and say anything. A name keeps what it can of it: no part of it leaves the folder, is
hidden, reserved, too long or unprintable, and no two names differ only in case, in how an accent is written, or in an
ending.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from dmt_ray.storage.images import image_suffixes, suffixes_of_missing_formats

#: Bytes of a part of a path; file systems allow 255, and strengths and endings are still to come.
MAX_PART = 180
#: Bytes of a whole path; object stores allow 1024, and the folder comes before it.
MAX_PATH = 700

#: Endings of photos that are taken off; also of formats that need a library of their own.
_SUFFIXES = image_suffixes() | suffixes_of_missing_formats()
#: What Windows reserves or misreads, and a path's own separators.
_RESERVED = re.compile(r'[<>:"|?*\\/]')
_DEVICE = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(?=[ .]|$)")
#: Unicode categories: control characters, surrogates, line and paragraph separators.
_UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})
#: Characters that turn the direction of what follows.
_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_DIGITS = 8
#: Stands before the ending of an animation.
ANIMATION = ".animation"


def safe_path(id_: str, *, flat: bool = False, dots: bool = True) -> str:
    """Return an id as a relative path without the photo's ending.

    Parameters:
        id_: of an image.
        flat: no folders; their names are joined by two underscores.
        dots: keep dots inside of names; else they become underscores.
    """
    root, suffix = posixpath.splitext(id_)
    named = root if suffix.lower() in _SUFFIXES and not root.endswith("/") else id_
    parts = [part for part in named.split("/") if part not in ("", ".")] or [""]
    if flat:
        parts = ["__".join(parts)]
    if not dots:
        parts = [part.replace(".", "_") for part in parts]
    *folders, name = [_safe_part(part) for part in parts]
    if name.casefold().endswith(ANIMATION):  # a.animation.webp is the animation of a
        name = f"{name[: -len(ANIMATION)]}_{name[1 - len(ANIMATION) :]}"
    # A folder called a.png would take the name of the picture a.png.
    folders = [f"{folder}_" if posixpath.splitext(folder)[1].lower() in _SUFFIXES else folder for folder in folders]
    path = "/".join([*folders, name])
    return path if len(path.encode()) <= MAX_PATH else f"{_digest(id_, 16)}/{name}"


def _safe_part(part: str) -> str:
    """Return one part of a path as a name that every file system takes."""
    printable = "".join(
        "_" if unicodedata.category(char) in _UNPRINTABLE or char in _TURNING else char for char in part
    )
    name = _RESERVED.sub("_", printable)
    if name.endswith((".", " ")):
        name = name.rstrip(". ") + "_"
    if not name or name[0] in ". " or _DEVICE.match(name):
        name = f"_{name.lstrip('. ')}"
    if len(name.encode()) <= MAX_PART:
        return name
    kept = name.encode()[: MAX_PART - _DIGITS - 1].decode(errors="ignore")
    return f"{kept}-{_digest(part, _DIGITS)}"


def _digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:digits]


def _key(path: str) -> str:
    """Return what is the same for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _number(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(_key(path).encode(), digest_size=8).digest(), "little")


class Names:
    """The names of all images of a plan.

    Of several images that would have one name, the first of the plan has it, and the others get some digits of their
    id's SHA-256 behind it. So a name depends on the plan alone, and not on what is exported; a plan that grows keeps
    its names. Memory: eight bytes for each image, and the names of those that needed digits.

    Parameters:
        ids: gives all ids in the plan's order; is called up to twice.
        flat, dots: as for ``safe_path``.
    """

    def __init__(self, ids: Callable[[], Iterator[str]], *, flat: bool = False, dots: bool = True) -> None:
        self._flat, self._dots = flat, dots
        numbers = np.fromiter((_number(self._plain(id_)) for id_ in ids()), np.uint64)
        self._taken, counts = np.unique(numbers, return_counts=True)
        doubled = {int(number) for number in self._taken[counts > 1]}
        self._others: dict[str, str] = {}
        if doubled:
            self._tell_apart(ids(), doubled)

    def of(self, id_: str) -> str:
        """Return an image's path without an ending."""
        return self._others.get(id_) or self._plain(id_)

    def _plain(self, id_: str) -> str:
        return safe_path(id_, flat=self._flat, dots=self._dots)

    def _tell_apart(self, ids: Iterable[str], doubled: set[int]) -> None:
        """Give other names to all images but the first of each name that several would have."""
        seen: set[int] = set()
        given: set[int] = set()
        for id_ in ids:
            path = self._plain(id_)
            number = _number(path)
            if number not in doubled:
                continue
            if number not in seen:
                seen.add(number)
                continue
            for digits in range(_DIGITS, 65, _DIGITS):
                name = f"{path}-{_digest(id_, digits)}"
                new = _number(name)
                if new not in given and not self._is_taken(new):
                    break
            given.add(new)
            self._others[id_] = name

    def _is_taken(self, number: int) -> bool:
        place = int(np.searchsorted(self._taken, np.uint64(number)))
        return place < len(self._taken) and int(self._taken[place]) == number


def step_labels(steps: list[int], strengths: list[float | None]) -> list[str]:
    """Return what tells the steps of one image apart in a name, such as ``strength-2``.

    Parameters:
        steps: of the image's rows.
        strengths: of the same rows.
    """
    labels = [None if strength is None else f"strength-{_decimal(strength)}" for strength in strengths]
    if None in labels or len(set(labels)) < len(labels):
        return [f"step-{step}" for step in steps]
    return [label for label in labels if label is not None]


def _decimal(number: float) -> str:
    short = f"{number:g}"
    return short if float(short) == number else repr(number)

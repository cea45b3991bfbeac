"""Where files are kept that would otherwise be downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of the cache: ``$DMT_RAY_CACHE``, or ``~/.cache/dmt_ray``."""
    return Path(os.environ.get("DMT_RAY_CACHE") or "~/.cache/dmt_ray").expanduser()

"""Names in an output folder beside ``run.json``, ``plan.parquet`` and ``shards/``."""

from __future__ import annotations

#: What a run with ``--traversal-only`` has learned, so that its displacements can be used.
MANIFOLD_FOLDER = "manifold"
#: What ``dmt-ray verify --discard`` has moved aside.
DISCARDED_FOLDER = "discarded"
#: The page of ``dmt-ray report``.
REPORT_FOLDER = "report"

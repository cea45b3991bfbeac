"""What is done to the images of one shard, without Ray: read, traverse, reconstruct, and a row for each, good or bad.

A bad image becomes an error row. When a whole batch fails, it is cut in half until the image that is to blame stands
alone; the same cut lets a batch that does not fit into memory go through in smaller ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from dmt_ray.jobs.exemplars import READER_THREADS, make_editor
from dmt_ray.jobs.job import Array, JobConfig
from dmt_ray.jobs.judging import JudgeModel
from dmt_ray.method.pictures import BATCH
from dmt_ray.output.displacements import SavedDisplacement
from dmt_ray.pipeline.batch_size import BatchSize
from dmt_ray.pipeline.devices import device_name
from dmt_ray.pipeline.reconstruction_stage import MadeBy, ReconstructionStage
from dmt_ray.pipeline.result_rows import ResultRows
from dmt_ray.pipeline.traversal_stage import TraversalStage
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader


class ShardProcessor:
    """A model on a device, with all that one actor needs to turn items into rows.

    Parameters:
        arrays: network weights by torchvision name.
        exemplars: what ``learn_exemplars`` made.
        config: the run's options.
        device: torch device, such as ``cuda:0``.
        weights_label: goes into every row.
        fingerprint: of the run's settings; goes into every result's file.
        worker: names this process in every row.
        lpips: what LPIPS to the input is measured with; None leaves it null.
        judge: what the judge is made from; None leaves verdicts null.
        containers: identities of the tables and archives that the plan was made of, by URI.
        gpu_share: of the GPU that is the device; others may have the rest.
        overlap: read, decode and encode pictures while the device works on those of another batch. None does so where
            the device is not the CPU, whose cores have enough to do.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        exemplars: Mapping[str, Array],
        config: JobConfig,
        *,
        device: str,
        weights_label: str,
        fingerprint: str,
        worker: str,
        lpips: Mapping[str, Array] | None = None,
        judge: JudgeModel | None = None,
        containers: Mapping[str, str] | None = None,
        gpu_share: float = 1.0,
        overlap: bool | None = None,
    ) -> None:
        self.device = device
        self.config = config
        self.editor = make_editor(arrays, exemplars, config, device, lpips, judge)
        reader = InputReader(config.inputs.max_bytes, containers or {}, config.inputs.allow_uri)
        threads = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="images")
        overlap = device != "cpu" if overlap is None else overlap
        asked = config.compute.batch_size
        self._traversal = TraversalStage(
            self.editor,
            config,
            reader,
            threads,
            BatchSize(BATCH if asked == "auto" else asked, device),
            overlap=overlap,
        )
        self._reconstruction = ReconstructionStage(
            self.editor,
            config,
            ResultRows(self.editor, config, fingerprint),
            MadeBy(worker, device_name(device), weights_label),
            threads,
            BatchSize(asked, device, gpu_share),
            overlap=overlap,
        )

    def traverse(
        self,
        items: Sequence[InputItem],
        saved: Mapping[str, SavedDisplacement] | None = None,
        *,
        accept_changed: bool = False,
    ) -> pa.Table:
        """Read the items and move their features; see ``TraversalStage.run``."""
        return self._traversal.run(items, saved, accept_changed=accept_changed)

    def reconstruct(self, traversed: pa.Table, attempts: int) -> pa.Table:
        """Turn moved features into encoded pictures; see ``ReconstructionStage.run``."""
        return self._reconstruction.run(traversed, attempts)

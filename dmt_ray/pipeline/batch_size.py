"""How many images an actor inverts side by side: what the device has room for, and less once that was too much."""

from __future__ import annotations

import logging
import math
from typing import Literal

import torch

from dmt_ray.method.memory import free_bytes
from dmt_ray.method.pictures import BATCH
from dmt_ray.words import agreed, counted

logger = logging.getLogger(__name__)

#: Share of the memory that a batch may take; allocators waste some.
_USED = 0.85
#: Bytes that a batch leaves to the features' blocks, to matrices of exemplars, and to the kernels' own needs.
RESERVE = 2**30
#: With so many pixels a batch keeps a large card busy (measured on an H200: at 128, 224 and 512 px a larger one is at
#: most 6 % quicker). Several batches of a shard are better then: pictures of one are decoded and encoded meanwhile.
ENOUGH_PIXELS = 2**22
#: No more images than this.
MOST = 256


class BatchSize:
    """The size of an actor's batches.

    Parameters:
        asked: a number, or ``auto``: from the free memory of a CUDA device, and ``BATCH`` on the CPU.
        device: torch device.
        gpu_share: of a GPU that Ray gave the actor; others may have the rest.
    """

    def __init__(self, asked: int | Literal["auto"], device: str, gpu_share: float = 1.0) -> None:
        self._asked = asked
        self._device = torch.device(device)
        self._share = min(1.0, gpu_share)
        self._limit = MOST if asked == "auto" else asked

    def most(self, pixels: int, each: float) -> int:
        """Return how many images to take at once, at least 1.

        Parameters:
            pixels: of an image at working size.
            each: bytes of device memory that an image takes.
        """
        if self._asked != "auto":
            return self._limit
        return min(self._limit, self._fitting(each), math.ceil(ENOUGH_PIXELS / pixels))

    @property
    def limit(self) -> int:
        """No more images than this are taken, whatever memory is free."""
        return self._limit

    def note_out_of_memory(self, count: int) -> None:
        """Remember that so many images did not fit; no more than half of them are tried from now on."""
        half = max(1, count // 2)
        if half < self._limit:
            logger.warning(
                "%s at once %s not fit into the memory; at most %d from now on.",
                *(counted(count, "image"), agreed(count, "does", "do"), half),
            )
            self._limit = half

    def _fitting(self, each: float) -> int:
        free = free_bytes(self._device)
        if free is None:
            return BATCH
        total = torch.cuda.get_device_properties(self._device).total_memory
        return fitting(free, total, each, self._share)


def fitting(free: int, total: int, each: float, share: float = 1.0) -> int:
    """Return how many images fit, 1 to ``MOST``.

    Parameters:
        free: bytes that are free on the device.
        total: bytes that it has.
        each: bytes that an image takes.
        share: of the device that belongs to the actor.
    """
    room = _USED * min(free, share * total) - RESERVE
    return max(1, min(MOST, int(room / each)))

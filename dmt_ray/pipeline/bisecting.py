"""Batches that fail are cut in half until each culprit stands alone, or until what is left fits into memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Input = TypeVar("Input")
Output = TypeVar("Output")


class DeviceLostError(RuntimeError):
    """The accelerator of this process does not answer any more; only a new process helps."""


def run_bisecting(
    step: Callable[[Sequence[Input]], Sequence[Output]],
    batch: Sequence[Input],
    note_out_of_memory: Callable[[int], object] = lambda count: None,
) -> list[Output | Exception]:
    """Run ``step`` on a batch; on failure cut the batch in half until each culprit stands alone.

    Parameters:
        step: makes an output of each input.
        batch: the inputs.
        note_out_of_memory: called with the length of each batch that did not fit into the memory.

    Returns one output or one exception per input, in order.

    Raises:
        DeviceLostError: the device is gone, and no image is to blame.
    """
    if not batch:
        return []
    try:
        return list(step(batch))
    except Exception as error:
        if _is_device_lost(error):
            raise DeviceLostError(str(error)) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError):
            note_out_of_memory(len(batch))
        if len(batch) == 1:
            logger.warning("An image failed: %s: %s", type(error).__name__, error)
            return [error]
        logger.info("A batch of %d failed and is cut in half: %s", len(batch), error)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    halves = (run_bisecting(step, half, note_out_of_memory) for half in (batch[:middle], batch[middle:]))
    return [result for half in halves for result in half]


def _is_device_lost(error: Exception) -> bool:
    lost = getattr(torch, "AcceleratorError", None)
    return lost is not None and isinstance(error, lost) and not isinstance(error, torch.OutOfMemoryError)

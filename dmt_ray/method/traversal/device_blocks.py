"""F on its way to the device: in blocks of columns, kept there or copied while the block before is used."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

#: Bytes of F that are in memory as float64 at a time.
BLOCK_BYTES = 2**28


def as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on ``device``; on the CPU it shares the array's (possibly read-only) memory.

    Nothing in this package writes to such a tensor, so PyTorch's warning about read-only arrays does not apply.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array).to(device)


def block_columns(features: np.ndarray) -> list[slice]:
    """Return the blocks of columns in which F (K, D) takes at most ``BLOCK_BYTES`` as float64."""
    width = max(1, BLOCK_BYTES // (8 * max(1, len(features))))
    return [slice(begin, begin + width) for begin in range(0, features.shape[1], width)]


def blocks(features: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield F (K, D) in blocks of columns."""
    for columns in block_columns(features):
        yield columns, features[:, columns]


class DeviceBlocks:
    """F (K, D) in blocks of columns on a device.

    Copies to a CUDA device go through page-locked memory, so that the next block is gathered on the host, and copied,
    while the device computes with this one.

    Parameters:
        features: F, float16; may be a read-only view of shared memory or of a file.
        device: where the blocks are wanted.
        resident: copy all of F there once.
    """

    def __init__(self, features: np.ndarray, device: torch.device, *, resident: bool) -> None:
        self._features, self._device = features, device
        self._resident = as_tensor(features, device) if resident else None
        self._staging: list[tuple[Tensor, torch.cuda.Event]] = []

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield columns and block (K, columns) float16."""
        return self._yield(None)

    def of_rows(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield columns and block (R, columns) float16 of some rows (R,) of F."""
        return self._yield(rows)

    def _yield(self, rows: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        if self._resident is not None:
            for columns in block_columns(self._features):
                block = self._resident[:, columns]
                yield columns, block if rows is None else block[rows]
            return
        here = slice(None) if rows is None else rows.cpu().numpy()
        copied = self._staged if self._device.type == "cuda" else self._plain
        for number, columns in enumerate(block_columns(self._features)):
            yield columns, copied(self._features[:, columns][here], number)

    def _plain(self, part: np.ndarray, _: int) -> Tensor:
        return as_tensor(part, self._device)

    def _staged(self, part: np.ndarray, number: int) -> Tensor:
        """Return a block on the device, copied there behind what the device is doing."""
        while len(self._staging) < 2:
            room = max((self._features[:, columns].size for columns in block_columns(self._features)), default=0)
            self._staging.append((torch.empty(room, dtype=torch.float16, pin_memory=True), torch.cuda.Event()))
        buffer, copied = self._staging[number % 2]
        copied.synchronize()  # the copy that this buffer was for before
        staged = buffer[: part.size].view(part.shape)
        staged.copy_(as_tensor(part, torch.device("cpu")))
        block = staged.to(self._device, non_blocking=True)
        copied.record()
        return block

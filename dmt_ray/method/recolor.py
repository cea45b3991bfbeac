"""The colorize job's front to the method: exemplars from colour photos, traversal, and inversion to chroma planes.

Source = the grey copies of the reference photos, target = the photos themselves. What goes from traversal to
reconstruction is a ``Displacement``, small beside the features it stands for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from torch import Tensor

from dmt_ray.config import ColorizeConfig, Resolution
from dmt_ray.method import color
from dmt_ray.method.inversion import invert_chroma
from dmt_ray.method.local import LocalExemplars
from dmt_ray.method.manifold import Manifold, as_tensor
from dmt_ray.method.metrics import psnr, ssim
from dmt_ray.method.traversal import traverse_to_strength
from dmt_ray.method.vgg import VGG

_BATCH = 8
#: A picture whose mean chroma norm is below this, in 8-bit units, is grey: rounding and JPEG leave no more than that.
GREY_CHROMA = 2.0


@dataclass(frozen=True)
class Displacement:
    """How one image is to be moved, in exemplars: what travels from traversal to reconstruction.

    Attributes:
        arrays: ``r`` (K + 1,) float64 for global traversal; ``index`` (cells, k) int32 and ``weight`` (cells, k)
            float16 for local.
        strength: the strength asked for.
        budget_weight: lambda (global), None for local traversal.
        displacement_norm: Euclidean length of the move in standardised features.
        witness_before, witness_after: witness function before and after (global), None for local traversal.
    """

    arrays: dict[str, np.ndarray]
    strength: float
    budget_weight: float | None
    displacement_norm: float
    witness_before: float | None
    witness_after: float | None

    def to_bytes(self) -> bytes:
        """Serialise as safetensors, the figures in its metadata."""
        figures = {
            name: getattr(self, name)
            for name in ("strength", "budget_weight", "displacement_norm", "witness_before", "witness_after")
        }
        return save_tensors(self.arrays, metadata={"figures": json.dumps(figures)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Displacement:
        """Undo ``to_bytes``."""
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return cls(load_tensors(data), **json.loads(header["__metadata__"]["figures"]))


@dataclass(frozen=True)
class Reconstruction:
    """The colours found for one image.

    Attributes:
        chroma: (2, size, size) float32 in 8-bit units, zero being neutral.
        feature_loss_before, feature_loss_after: mean over taps of 1/2 |phi - target|^2, of the grey input and of the
            result.
        iterations: L-BFGS steps taken.
        psnr_to_input, ssim_to_input: the result against the grey input at working size, in dB and in -1..1.
    """

    chroma: np.ndarray
    feature_loss_before: float
    feature_loss_after: float
    iterations: int
    psnr_to_input: float
    ssim_to_input: float


def _resize(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize (C, H, W) with an antialiasing bicubic filter."""
    return F.interpolate(planes[None], size=(height, width), mode="bicubic", align_corners=False, antialias=True)[0]


def _to_tensor(rgb: np.ndarray) -> Tensor:
    return torch.tensor(rgb).permute(2, 0, 1).float()


def _to_pixels(rgb: Tensor) -> np.ndarray:
    pixels: np.ndarray = rgb.clamp(0, 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
    return pixels


def working_rgb(rgb: np.ndarray, size: int) -> np.ndarray:
    """Return a picture (H, W, 3) uint8 resized to (size, size, 3) uint8; the aspect ratio is not kept."""
    return _to_pixels(_resize(_to_tensor(rgb), size, size))


def is_grey(rgb: np.ndarray) -> bool:
    """Tell whether a picture (H, W, 3) uint8 has no colour to learn from."""
    return float(color.chroma(_to_tensor(rgb)).norm(dim=0).mean()) < GREY_CHROMA


def working_luma(rgb: np.ndarray, size: int) -> np.ndarray:
    """Return the luma (size, size) float32 in 0..255 of a picture (H, W, 3) uint8."""
    plane = _resize(color.luma(_to_tensor(rgb)), size, size)[0].clamp(0, 255)
    resized: np.ndarray = plane.numpy()
    return resized


def assemble(rgb: np.ndarray, chroma: np.ndarray, resolution: Resolution) -> np.ndarray:
    """Join a photo's own luma with chroma found at working size.

    Parameters:
        rgb: the input photo (H, W, 3) uint8; only its luma is used.
        chroma: (2, size, size) float32 in 8-bit units.
        resolution: ``native`` brings the chroma up to H x W and leaves the luma as it is; ``working`` brings the
            luma down to size x size.

    Returns:
        (H, W, 3) or (size, size, 3) uint8.
    """
    size = chroma.shape[-1]
    luma, planes = color.luma(_to_tensor(rgb)), torch.from_numpy(np.ascontiguousarray(chroma))
    if resolution == "working":
        luma = _resize(luma, size, size).clamp(0, 255)
    else:
        planes = _resize(planes, *rgb.shape[:2])
    return _to_pixels(color.to_rgb(luma, planes))


def _features(network: VGG, images: Tensor) -> list[np.ndarray]:
    """Return the maps of images (N, 3, size, size) in 0..255 as float16 arrays, a batch at a time."""
    parts: list[list[np.ndarray]] = [[] for _ in network.taps]
    with torch.inference_mode():
        for batch in images.split(_BATCH):
            for part, tap in zip(parts, network(batch.to(network.device) / 255), strict=True):
                part.append(tap.half().cpu().numpy())
    return [np.concatenate(part) for part in parts]


def build_exemplars(network: VGG, rgb: np.ndarray, config: ColorizeConfig) -> dict[str, np.ndarray]:
    """Return what both kinds of actor need of the reference photos, as plain arrays to share.

    Parameters:
        network: the VGG with the taps of ``config``.
        rgb: (N, size, size, 3) uint8 reference photos.
        config: the run's settings; the kind of traversal and its standardisation matter here.
    """
    images = torch.tensor(rgb).permute(0, 3, 1, 2).float()
    source = _features(network, color.luma(images).expand(-1, 3, -1, -1))
    target = _features(network, images)
    chroma = color.chroma(images)
    if config.traversal.traversal == "local":
        return LocalExemplars.build(source, target, chroma.numpy(), network.taps, config.model.size)
    arrays = Manifold.build(source, target, config.traversal.standardise, device=network.device)
    arrays["chroma"] = chroma.half().numpy()
    return arrays


class Recolorer:
    """Colorizes batches of grey images with one set of exemplars.

    Parameters:
        network: the VGG with the taps of ``config``.
        exemplars: what ``build_exemplars`` returned, possibly as read-only views of shared memory.
        config: the run's settings.
    """

    def __init__(self, network: VGG, exemplars: Mapping[str, np.ndarray], config: ColorizeConfig) -> None:
        self.network = network
        self.config = config
        self.local: LocalExemplars | None = None
        self.manifold: Manifold | None = None
        if config.traversal.traversal == "local":
            self.local = LocalExemplars(exemplars, network.taps, config.model.size, network.device)
        else:
            self.manifold = Manifold(exemplars, len(network.taps), network.device)
            self.chroma = as_tensor(exemplars["chroma"], network.device)

    def _maps(self, luma: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        plane = torch.tensor(luma, device=self.network.device)[:, None]
        with torch.no_grad():
            return plane, self.network(plane.expand(-1, 3, -1, -1) / 255)

    def traverse(self, luma: np.ndarray) -> list[Displacement]:
        """Return one displacement per image of luma (B, size, size) float32 in 0..255."""
        results: list[Displacement] = []
        for begin in range(0, len(luma), _BATCH):
            _, maps = self._maps(luma[begin : begin + _BATCH])
            results += self._traverse_local(maps) if self.local is not None else self._traverse_global(maps)
        return results

    def _traverse_global(self, maps: list[Tensor]) -> list[Displacement]:
        assert self.manifold is not None
        strength = self.config.traversal.strength
        found = traverse_to_strength(self.manifold.border(self.manifold.standardise(maps)), strength)
        return [
            Displacement(
                {"r": found.r[b].cpu().numpy()},
                strength,
                float(found.budget_weight[b]),
                float(found.norm[b]),
                float(found.witness_before[b]),
                float(found.witness_after[b]),
            )
            for b in range(len(found.r))
        ]

    def _traverse_local(self, maps: list[Tensor]) -> list[Displacement]:
        assert self.local is not None
        settings = self.config.traversal
        index, weights = self.local.search(maps, settings.neighbors, settings.softmax_width, settings.scene_weight)
        results = []
        for b in range(len(index)):
            changes = self.local.displacement(index[b : b + 1], weights[b : b + 1], [tap[b : b + 1] for tap in maps])
            squares = [
                (change / deviation).square().sum()
                for change, deviation in zip(changes, self.local.deviations, strict=True)
            ]
            arrays = {
                "index": index[b].to(torch.int32).cpu().numpy(),
                "weight": weights[b].half().cpu().numpy(),
            }
            norm = settings.strength * float(torch.stack(squares).sum().sqrt())
            results.append(Displacement(arrays, settings.strength, None, norm, None, None))
        return results

    def _targets(self, maps: list[Tensor], displacements: Sequence[Displacement]) -> tuple[list[Tensor], Tensor]:
        """Return the moved features and the chroma to start from (B, 2, size, size).

        The start is the exemplars' own chroma, moved as far as the features are but never beyond strength 1: a
        stronger move asks for more than the exemplars show, and the inversion then decides where it is plausible.
        """
        device, size = self.network.device, self.config.model.size
        strength = torch.tensor([d.strength for d in displacements], device=device).view(-1, 1, 1, 1)
        if self.local is not None:
            index = torch.stack([torch.tensor(d.arrays["index"], device=device).long() for d in displacements])
            weights = torch.stack([torch.tensor(d.arrays["weight"], device=device).float() for d in displacements])
            changes = self.local.displacement(index, weights, maps)
            targets = [tap + change * strength for tap, change in zip(maps, changes, strict=True)]
            return targets, self.local.start_chroma(index, weights, size) * strength.clamp_max(1)
        assert self.manifold is not None
        r = torch.stack([torch.tensor(d.arrays["r"], device=device) for d in displacements])
        moved = self.manifold.move(self.manifold.standardise(maps), r)
        return self.manifold.unstandardise(moved, maps), self._global_start(r) / strength.clamp_min(1)

    def _global_start(self, r: Tensor) -> Tensor:
        """Return the chroma the same displacement gives: sum_j r_j chroma_j over the targets (sources have none)."""
        assert self.manifold is not None
        count = self.manifold.sources
        weights = r[:, count : count + self.manifold.targets].float()
        planes = torch.einsum("bm,mchw->bchw", weights, self.chroma.float())
        return planes.clamp(-color.CHROMA_BOUND, color.CHROMA_BOUND)

    def reconstruct(self, luma: np.ndarray, displacements: Sequence[Displacement]) -> list[Reconstruction]:
        """Return one reconstruction per image of luma (B, size, size) float32 in 0..255 and its displacement."""
        plane, maps = self._maps(luma)
        targets, start = self._targets(maps, displacements)
        settings = self.config.inversion
        found = invert_chroma(
            self.network, plane, targets, start, tv_weight=settings.tv_weight, iterations=settings.iterations
        )
        picture = color.to_rgb(plane, found.chroma).clamp(0, 255)
        grey = plane.expand_as(picture)
        nearness, likeness = psnr(picture, grey), ssim(picture, grey)
        chroma = found.chroma.cpu().numpy()
        return [
            Reconstruction(
                chroma[b],
                float(found.feature_loss_before[b]),
                float(found.feature_loss_after[b]),
                int(found.iterations[b]),
                float(nearness[b]),
                float(likeness[b]),
            )
            for b in range(len(chroma))
        ]

"""The colour prior: a small network that learns from the references what chroma a patch of a grey picture has.

Several members of one shape are trained at once, from different seeds; their mean is the prior. It generalises where
the nearest patches only repeat. A photo's scene, a patch's place and its luma count beside the patch itself.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dmt_ray.method.colors.describing import EXTRAS, Described, grid_of, row_width
from dmt_ray.method.traversal.patches import positions

#: Dimensions of a picture's mean descriptor that stand for its scene.
SCENE_DIMENSIONS = 128
#: Chroma in 8-bit units that the network calls 1.
CHROMA_UNIT = 20.0

#: Weight (after, before) and bias (after,).
Layer = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class PriorSettings:
    """How the prior is trained; the defaults are those that docs/quality.md compares."""

    members: int = 3
    hidden: tuple[int, ...] = (512, 256)
    dropout: float = 0.5
    epochs: int = 6
    batch: int = 2048
    rate: float = 1.5e-3
    decay: float = 1e-2
    balance: float = 100.0
    """A reference counts as 1 / (its mean squared chroma + this, in 8-bit units squared): PSNR over grey is won or
    lost in shares of a photo's own chroma, and pale photos are many. 0 counts all alike."""
    most_patches: int = 150_000
    """Patches to learn from; of more references, fewer of each."""


class ColorPrior:
    """The prior as it was learned.

    Parameters:
        arrays: what ``fit_prior`` returned; may be read-only views of shared memory.
        size: side in pixels at which pictures are described.
        device: where to compute.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], size: int, device: torch.device) -> None:
        def tensor(name: str) -> Tensor:
            return torch.tensor(arrays[name], device=device).float()

        count = sum(name.startswith("prior_weight_") for name in arrays)
        self._inputs = _Inputs(tensor("prior_centre"), tensor("prior_scale"), size)
        self._weights = [tensor(f"prior_weight_{k}") for k in range(count)]
        self._biases = [tensor(f"prior_bias_{k}") for k in range(count)]

    @staticmethod
    def has(arrays: Mapping[str, np.ndarray]) -> bool:
        """Tell whether a prior was learned."""
        return "prior_centre" in arrays

    @torch.no_grad()
    def __call__(self, pictures: Described) -> Tensor:
        """Return each member's chroma (members, B, patches, 2) in 8-bit units."""
        x = self._inputs(pictures)
        found = _forward(x.flatten(0, 1), self._weights, self._biases)
        chroma: Tensor = found.unflatten(1, x.shape[:2]) * CHROMA_UNIT
        return chroma


class _Inputs:
    """What the network sees of a patch (see the module), standardised.

    Parameters:
        centre: (P,) mean descriptor.
        scale: () standard deviation of the principal directions that vary most.
        size: side in pixels at which pictures are described.
    """

    def __init__(self, centre: Tensor, scale: Tensor, size: int) -> None:
        self._centre, self._scale = centre, scale
        places = positions(grid_of(size)).to(centre.device)
        # A mirrored picture has the same colours, so the columns count by their distance from the middle.
        self._places = torch.cat([places[:, :1], places.square()], 1)

    def __call__(self, pictures: Described) -> Tensor:
        """Return (B, patches, inputs)."""
        count = pictures.descriptors.shape[1]
        return self.gather(
            pictures.descriptors, pictures.tone, self.whole(pictures), torch.arange(count, device=self._centre.device)
        )

    def whole(self, pictures: Described) -> Tensor:
        """Return what is said of pictures as wholes (B, inputs): the scene, and mean and deviation of luma."""
        scenes = (pictures.descriptors.mean(1) - self._centre)[:, :SCENE_DIMENSIONS] / self._scale
        mean = pictures.tone[..., 0]
        variance = mean.var(1, unbiased=False) + pictures.tone[..., 1].square().mean(1)
        return torch.cat([scenes * 2, mean.mean(1, keepdim=True) * 4 - 2, variance.sqrt()[:, None] * 4 - 2], 1)

    def gather(self, descriptors: Tensor, tone: Tensor, whole: Tensor, patches: Tensor) -> Tensor:
        """Return (B, n, inputs) of patches (n,) or (B, n), with their descriptors (B, n, P) and tone (B, n, 2)."""
        count = descriptors.shape[1]
        parts = [
            (descriptors - self._centre) / self._scale,
            whole[:, None].expand(-1, count, -1),
            tone[..., :1] * 4 - 2,
            tone[..., 1:] * 8,
            self._places[patches].expand(len(descriptors), -1, -1),
        ]
        return torch.cat(parts, 2)


def _forward(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Return (members, n, 2) of inputs (n, d)."""
    x = x.expand(len(weights[0]), -1, -1)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = F.relu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(biases[-1], x, weights[-1])


class PriorSample:
    """Patches to learn the prior from, in any order: what is kept hardly grows with the number of references.

    Parameters:
        references: how many there are; each gives so many patches that all together give ``most_patches``.
        size: side in pixels at which they are described.
        seed: of the patches that are drawn.
        settings: how the prior is trained.
    """

    def __init__(self, references: int, size: int, seed: int, settings: PriorSettings) -> None:
        self.size, self.settings, self.seed = size, settings, seed
        rows, columns = grid_of(size)
        self._count, width = rows * columns, row_width()
        take = min(self._count, max(1, settings.most_patches // max(1, references)))
        # Allocated once: thousands of small arrays among large ones would take many times their room.
        self._patches = torch.empty(references, take, width, dtype=torch.float16)
        self._places = torch.empty(references, take, dtype=torch.int32)
        self._wholes = torch.empty(references, width - 2)
        self._energies = torch.empty(references)
        self._taken = torch.zeros(references, dtype=torch.bool)

    def add(self, rows: np.ndarray, references: Sequence[int]) -> None:
        """Take references (n, patches, P + EXTRAS) by their numbers, as ``pack`` returned them."""
        found, numbers = torch.tensor(np.asarray(rows)), list(references)
        for reference, number in zip(found, numbers, strict=True):
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + number) & 0x7FFFFFFFFFFFFFFF)
            drawn = torch.randperm(self._count, generator=generator)[: self._places.shape[1]].sort().values
            self._places[number], self._patches[number] = drawn, reference[drawn]
        mean, deviation = found[..., -2].float(), found[..., -1].float()
        variance = mean.var(1, unbiased=False) + deviation.square().mean(1)
        whole = [found[..., :-EXTRAS].float().mean(1), mean.mean(1, keepdim=True), variance.sqrt()[:, None]]
        self._wholes[numbers] = torch.cat(whole, 1)
        self._energies[numbers] = found[..., -EXTRAS:-2].float().square().sum(2).mean(1)
        self._taken[numbers] = True

    def __len__(self) -> int:
        """References that there are."""
        return len(self._taken)

    def without(self, references: Collection[int], *, members: int) -> PriorSample:
        """Return the sample without some references, for so many members."""
        rest = copy.copy(self)
        rest.settings = replace(self.settings, members=members)
        rest._taken = self._taken.clone()
        rest._taken[list(references)] = False
        return rest

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return what was taken.

        Returns:
            Patches (n, P + EXTRAS) float16, their places (n,), wholes (references, P + 2), owners (n,), and the
            references' mean squared chroma (references,).
        """
        taken = self._taken
        owners = torch.arange(int(taken.sum())).repeat_interleave(self._places.shape[1])
        patches, places = self._patches[taken].flatten(0, 1), self._places[taken].flatten().long()
        return patches, places, self._wholes[taken], owners, self._energies[taken]


def fit_prior(sample: PriorSample, device: torch.device, *, half: bool = False) -> dict[str, np.ndarray]:
    """Learn the prior.

    The same sample and seed give the same prior on the same device; nothing of the process's random state is used or
    changed.

    Parameters:
        sample: what to learn from.
        device: where to compute.
        half: multiply in bfloat16.

    Returns:
        ``prior_centre`` (P,), ``prior_scale`` (), ``prior_bias_<k>`` (members, 1, width) float32 and
        ``prior_weight_<k>`` (members, inputs, width) float16.
    """
    settings = sample.settings
    patches, places, wholes, owners, energies = (each.to(device) for each in sample.tensors())
    weight = 1 / (energies + settings.balance) if settings.balance > 0 else torch.ones_like(energies)
    weight = weight / weight[owners].mean()
    width = patches.shape[1] - EXTRAS
    centre = wholes[:, :width].mean(0)
    scale = (patches[:, :32].float() - centre[:32]).std(0, unbiased=False).mean().clamp_min(1e-6)
    inputs = _Inputs(centre, scale, sample.size)
    scenes = (wholes[:, :width] - centre)[:, :SCENE_DIMENSIONS] / scale * 2
    whole = torch.cat([scenes, wholes[:, width:] * 4 - 2], 1)
    order_of = torch.Generator().manual_seed(sample.seed)
    drop = torch.Generator().manual_seed(sample.seed)

    def batch(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        rows = patches[index].float()
        x = inputs.gather(rows[:, None, :width], rows[:, None, -2:], whole[owners[index]], places[index][:, None])
        return x[:, 0], rows[:, width : width + 2] / CHROMA_UNIT, weight[owners[index], None]

    width_in = batch(torch.zeros(1, dtype=torch.long, device=device))[0].shape[1]
    members = [_initial((width_in, *settings.hidden, 2), sample.seed + e, device) for e in range(settings.members)]
    size = min(settings.batch, len(patches))
    steps = len(patches) // size
    optimizer = torch.optim.AdamW(
        [each for layers in members for layer in layers for each in layer],
        lr=settings.rate,
        weight_decay=settings.decay,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.rate, total_steps=settings.epochs * steps, pct_start=0.15
    )
    precision = torch.autocast(device.type, torch.bfloat16) if half else contextlib.nullcontext()
    for _ in range(settings.epochs):
        order = torch.randperm(len(patches), generator=order_of).to(device)
        for index in order[: steps * size].view(steps, size):
            x, target, counts = batch(index)
            with torch.enable_grad(), precision:
                losses = [
                    F.smooth_l1_loss(
                        _dropped_out(layers, x, settings.dropout, drop).float(), target, reduction="none"
                    )
                    for layers in members
                ]
                loss = 2 * (torch.stack(losses) * counts).mean((1, 2)).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    arrays = {"prior_centre": centre.cpu().numpy(), "prior_scale": scale.cpu().numpy()}
    for k in range(len(members[0])):
        weight, bias = (torch.stack([layers[k][part].detach() for layers in members]) for part in (0, 1))
        arrays[f"prior_weight_{k}"] = weight.transpose(1, 2).half().contiguous().cpu().numpy()
        arrays[f"prior_bias_{k}"] = bias[:, None].cpu().numpy()
    return arrays


def _dropped_out(layers: Sequence[Layer], x: Tensor, dropout: float, generator: torch.Generator) -> Tensor:
    """Return a member's output (n, 2) of inputs (n, d) with a share of the hidden values left out."""
    keep = 1 - dropout
    for weight, bias in layers[:-1]:
        x = F.relu(F.linear(x, weight, bias))
        # Bytes are drawn several times faster than floats; drawn here, they are the same on every device.
        drawn = torch.randint(0, 256, x.shape, dtype=torch.uint8, generator=generator).to(x.device)
        x = x * (drawn < round(256 * keep)) / keep
    return F.linear(x, *layers[-1])


def _initial(widths: Sequence[int], seed: int, device: torch.device) -> list[Layer]:
    """Return weight (after, before) and bias (after,) to begin with, of every layer of a member."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        weight = (torch.rand(after, before, generator=generator) * 2 - 1) * (3 / before) ** 0.5
        bias = torch.zeros(after, device=device, requires_grad=True)
        layers.append((weight.to(device).requires_grad_(True), bias))
    return layers

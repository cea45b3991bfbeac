"""How a bank is built of references, a batch at a time, and the prior learned of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch

from dmt_ray.method import color
from dmt_ray.method.colors.bank import ArrayStore, ColorBank, PatchStore
from dmt_ray.method.colors.describing import EXTRAS, Described, PatchDescriber, grid_of, pack, row_width
from dmt_ray.method.colors.mixing import LEAST_HELD_OUT, UNTOLD, fit_mixing
from dmt_ray.method.colors.prior import ColorPrior, PriorSample, PriorSettings, fit_prior
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.pictures import BATCH, MATCH_SIZE, resize_batch
from dmt_ray.method.settings import ColorizerSettings, PriorUse, TraversalConfig
from dmt_ray.method.traversal.patches import describe_scene

#: References that decide how patches are described.
DESCRIBING_SAMPLE = 256
#: Fewer references cannot tell how to mix a prior with the nearest patches.
PRIOR_FROM = 24
#: References that are held out: one in so many, and at most so many.
_HELD_OUT_ONE_IN, _MOST_HELD_OUT = 3, 64

Allocate = Callable[[tuple[int, ...], type[np.generic]], np.ndarray]


def describing_sample(count: int, seed: int) -> list[int]:
    """Return which of ``count`` references decide how patches are described, in their order."""
    if count <= DESCRIBING_SAMPLE:
        return list(range(count))
    return sorted(random.Random(seed).sample(range(count), DESCRIBING_SAMPLE))


def learns_prior(use: PriorUse, references: int) -> bool:
    """Tell whether so many references get a prior."""
    return use == "on" or (use == "auto" and references >= PRIOR_FROM)


def learn_describing(network: FeatureNetwork, rgb: Sequence[np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Return how patches are to be described, from references (side, side, 3) uint8; see ``PatchDescriber.learn``."""
    luma = [color.luma(_planes(picture[None], size, torch.device("cpu")))[0, 0].numpy() for picture in rgb]
    return PatchDescriber.learn(network, luma, size)


def describe_references(network: FeatureNetwork, describer: PatchDescriber, rgb: np.ndarray) -> np.ndarray:
    """Return what is kept of references (B, side, side, 3) uint8: rows (B, patches, P + EXTRAS), see ``pack``."""
    images = _planes(rgb, describer.size, network.device)
    return pack(describer(color.luma(images)[:, 0]), color.chroma(images))


def scenes_of(rows: np.ndarray) -> np.ndarray:
    """Return the scenes (B, P) float16 of references, from their rows (B, patches, P + EXTRAS)."""
    scenes: np.ndarray = describe_scene(torch.from_numpy(rows[..., :-EXTRAS]).float()).half().numpy()
    return scenes


def _planes(rgb: np.ndarray, size: int, device: torch.device) -> torch.Tensor:
    """Return pictures (B, 3, size, size) in 0..255 of (B, side, side, 3) uint8."""
    return resize_batch(torch.tensor(rgb, device=device).permute(0, 3, 1, 2).float(), size, size).clamp(0, 255)


def learn_prior(
    network: FeatureNetwork, sample: PriorSample, scenes: np.ndarray, store: PatchStore
) -> dict[str, np.ndarray]:
    """Learn the prior where the network is, and in its precision, and how to mix its colours with the neighbours'.

    Some references are held out for that: another prior is learned without them, and finds their colours.

    Parameters:
        network: of the descriptors.
        sample: to learn from, of all references by their numbers.
        scenes: (references, P) float16.
        store: gives their patches.

    Returns:
        What ``fit_prior`` returns, and ``mixing`` (2,) float32, the share and the vividness; see ``fit_mixing``.
    """
    half = next(network.buffers()).dtype == torch.bfloat16
    device, size = network.device, sample.size
    arrays = fit_prior(sample, device, half=half)
    mixing = UNTOLD
    if held := held_out(len(sample), sample.seed):
        rest = fit_prior(sample.without(held, members=1), device, half=half)
        rows = torch.from_numpy(np.asarray(store.rows(held))).to(device).float()
        pictures = Described(rows[..., :-EXTRAS], rows[..., -2:])
        near = ColorBank(scenes, store, device).search(pictures, TraversalConfig(), held)
        mixing = fit_mixing(ColorPrior(rest, size, device)(pictures).mean(0), near.chroma, rows[..., -EXTRAS:-2])
    arrays["mixing"] = np.array([mixing.share, mixing.vividness], np.float32)
    return arrays


def held_out(references: int, seed: int) -> list[int]:
    """Return which references tell how colours are to be mixed; none of too few."""
    count = min(_MOST_HELD_OUT, references // _HELD_OUT_ONE_IN)
    return sorted(random.Random(seed).sample(range(references), count)) if count >= LEAST_HELD_OUT else []


def build_bank(
    network: FeatureNetwork, rgb: Sequence[np.ndarray], settings: ColorizerSettings, allocate: Allocate = np.empty
) -> dict[str, np.ndarray]:
    """Return a bank that lies in arrays, and the prior where there are enough references.

    Parameters:
        network: has ``COLOR_LAYERS``.
        rgb: references (side, side, 3) uint8, of any side; that of the match size is quickest.
        settings: the use of a prior and the seed matter here.
        allocate: makes the largest array.

    Returns:
        What ``PatchDescriber.learn`` and ``learn_prior`` return; ``patches`` (references, patches, P + EXTRAS) and
        ``scenes`` (references, P), float16.
    """
    size, count = MATCH_SIZE, len(rgb)
    arrays = learn_describing(network, [rgb[n] for n in describing_sample(count, settings.seed)], size)
    describer = PatchDescriber(network, arrays, size)
    rows, columns = grid_of(size)
    patches = allocate((count, rows * columns, row_width()), np.float16)
    scenes = np.empty((count, row_width() - EXTRAS), np.float16)
    sample = None
    if learns_prior(settings.traversal.prior, count):
        sample = PriorSample(count, size, settings.seed, PriorSettings())
    for begin in range(0, count, BATCH):
        numbers = range(begin, min(begin + BATCH, count))
        part = slice(begin, numbers.stop)
        described = describe_references(network, describer, np.stack(rgb[part]))
        patches[part], scenes[part] = described, scenes_of(described)
        if sample is not None:
            sample.add(described, numbers)
    arrays |= {"patches": patches, "scenes": scenes}
    if sample is not None:
        arrays |= learn_prior(network, sample, scenes, ArrayStore(patches))
    return arrays

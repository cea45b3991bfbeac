"""What a run takes, before it is started: hours, shards, bytes, memory, money, and what saturates first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dmt_ray.config import OutputConfig, require, require_choice
from dmt_ray.method.networks.backbone import BACKBONES, BackboneName
from dmt_ray.method.networks.layers import Convolution, tap_stride
from dmt_ray.method.networks.vgg import vgg_layers
from dmt_ray.method.settings import ModelConfig, TransformInversionConfig
from dmt_ray.report import scaling_constants as known
from dmt_ray.report.node_losses import Losses, mean_losses, simulate_losses

if TYPE_CHECKING:
    CardName = str
else:  # the command line shows these as choices
    CardName = Literal[tuple(known.CARDS)]
PictureFormat = Literal["png", "jpeg"]

#: LPIPS goes through all of VGG-16.
LPIPS_LAYERS = vgg_layers((2, 2, 3, 3, 3))
#: Columns of F that are in memory at once, as float64 (docs/memory.md).
BLOCK_BYTES = 2**28
#: Threads of an actor that decode and encode.
PICTURE_THREADS = 4
#: Shards that each actor holds: the one that it does and one that waits.
SHARDS_IN_FLIGHT = 2
#: Runs that are simulated for each size of a shard.
SIMULATIONS = 10
#: Sizes of a shard that are held against lost nodes.
SHARD_SIZES = (8, 32, 128, 512, 2048, 8192)


@dataclass(frozen=True)
class PlanCommand:
    """Estimate what a transform run with global traversal takes, without starting anything.

    Every constant is told with its source; those that were not measured on this program are marked so.
    """

    images: int
    """How many images."""
    size: int = ModelConfig.size
    """Working size in pixels, as --size of the run."""
    gpus: int = 8
    """GPUs of the cluster, one actor each."""
    gpu: CardName = "h100"
    """Which card they are."""
    price_per_gpu_hour: float | None = None
    """What an hour of one GPU and its share of the machine costs, in any currency."""
    megapixels: float | None = None
    """Pixels of a photo, in millions. Default: as many as the working size has."""
    steps: int = 1
    """Results of each image: how many strengths."""
    exemplars: int = 200
    """Exemplars of all classes together."""
    iterations: int = TransformInversionConfig.iterations
    """L-BFGS iterations per step."""
    backbone: BackboneName = ModelConfig.backbone
    """Network whose features are moved."""
    batch_size: int = 32
    """Images inverted side by side."""
    shard_size: int = OutputConfig.shard_size
    """Images per shard."""
    image_format: PictureFormat = "png"
    """Encoding of the results."""
    gpus_per_node: int = 8
    """GPUs of one machine, which are lost together."""
    cores_per_gpu: int = 8
    """CPU cores for each GPU."""
    utilisation: float = known.UTILISATION.value
    """Share of the card's matrix rate that an inversion reaches, 0 to 1. Default: measured on an H200."""
    copy_rate: float = known.COPY_BYTES.value / 1e9
    """Gigabytes per second from a node's memory to one of its cards. Not measured yet."""
    losses_per_node_day: float = 0.5
    """How often a machine is lost, in the simulation: 0.5 is once in two days."""
    minutes_to_replace: float = 10.0
    """Until another machine is in its place."""
    seed: int = 0
    """Seed of the simulation."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require_choice("gpu", self.gpu, CardName)
        require_choice("image_format", self.image_format, PictureFormat)
        require(self.backbone in BACKBONES, "backbone", self.backbone, "one of " + ", ".join(BACKBONES))
        require(self.size >= 32 and self.size % 16 == 0, "size", self.size, "a multiple of 16, at least 32")
        for option in (
            *("images", "gpus", "steps", "exemplars", "iterations", "batch_size", "shard_size"),
            *("gpus_per_node", "cores_per_gpu"),
        ):
            require(getattr(self, option) >= 1, option, getattr(self, option), "at least 1")
        require(0 < self.utilisation <= 1, "utilisation", self.utilisation, "above 0 and at most 1")
        require(0 < self.copy_rate < math.inf, "copy_rate", self.copy_rate, "above 0")
        pixels = self.megapixels
        require(pixels is None or 0 < pixels < math.inf, "megapixels", pixels, "above 0")
        for option in ("price_per_gpu_hour", "losses_per_node_day", "minutes_to_replace"):
            value = getattr(self, option)
            require(value is None or 0 <= value < math.inf, option, value, "at least 0")

    @property
    def pixels(self) -> float:
        """Pixels of a photo."""
        return self.size**2 if self.megapixels is None else self.megapixels * 1e6

    @property
    def nodes(self) -> int:
        """How many machines."""
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def shards(self) -> int:
        """How many shards."""
        return math.ceil(self.images / self.shard_size)


@dataclass(frozen=True)
class Estimate:
    """What a run takes.

    Attributes:
        reconstruction: seconds per image on one GPU, by what they go to.
        traversal: the same.
        rate: images per second of the cluster.
        use: share of each resource that this rate takes, the fullest first; the first is 1.
        bytes_in, bytes_out: of the whole run.
        features: bytes of F, which lie once on each node.
        in_flight: bytes of shards that wait on a node.
        card: bytes of GPU memory that a reconstruction actor takes.
        driver: bytes of memory of the driver.
    """

    reconstruction: Mapping[str, float]
    traversal: Mapping[str, float]
    rate: float
    use: Mapping[str, float]
    bytes_in: float
    bytes_out: float
    features: float
    in_flight: float
    card: float
    driver: float


def forward_flops(layers: Sequence[Convolution], size: int) -> float:
    """Return the floating-point operations of one forward pass of convolutions over size x size pixels."""
    return sum(
        2 * each.channels_in * each.channels_out * each.kernel**2 * (size / tap_stride(each.name)) ** 2
        for each in layers
    )


def feature_count(backbone: str, size: int) -> int:
    """Return D, the number of features of a picture of size x size, for the default taps."""
    channels = {each.name: each.channels_out for each in BACKBONES[backbone].layers}
    return sum(channels[tap] * (size // tap_stride(tap)) ** 2 for tap in ModelConfig.taps)


def estimate(plan: PlanCommand, traversal_gpus: int, reconstruction_gpus: int) -> Estimate:
    """Estimate a run.

    Parameters:
        plan: the run and the cluster.
        traversal_gpus: GPUs with a traversal actor; 0 where it lives beside a reconstruction.
        reconstruction_gpus: GPUs with a reconstruction actor.
    """
    card = known.CARDS[plan.gpu]
    flops = card.matrix_tflops * 1e12 * plan.utilisation
    features = feature_count(plan.backbone, plan.size)
    matrix = 2.0 * plan.exemplars * features  # F, float16
    forward = forward_flops(BACKBONES[plan.backbone].layers, plan.size)
    gradients = plan.iterations * known.EVALUATIONS.value * known.GRADIENT_FORWARDS.value * forward
    lpips = 2 * forward_flops(LPIPS_LAYERS, plan.size)
    resident = matrix <= known.RESIDENT_SHARE * card.memory_gb * 1e9
    copy = 0.0 if resident else matrix / (plan.copy_rate * 1e9) / plan.batch_size
    threads = min(PICTURE_THREADS, plan.cores_per_gpu)
    pictures = plan.pixels / 1e6 * known.PICTURE_SECONDS.value
    reconstruction = {
        "the network": plan.steps * (gradients + lpips) / flops,
        "copying features to the card": plan.steps * copy,
        "decoding and encoding": plan.steps * pictures / threads,
    }
    traversal = {
        "the network": forward / flops,
        "copying features to the card": copy,
        "products in float64": 2.0 * plan.exemplars * features / (card.double_tflops * 1e12),
    }
    bytes_in = plan.pixels * known.INPUT_BYTES.value
    bytes_out = plan.steps * (plan.pixels * known.OUTPUT_BYTES[plan.image_format].value + known.ROW_BYTES.value)
    each = sum(reconstruction.values())
    beside = 0.0 if traversal_gpus else sum(traversal.values())
    use = {
        "reconstruction actors": (each + beside) / reconstruction_gpus,
        "CPU cores": plan.steps * pictures / (plan.gpus * plan.cores_per_gpu),
        "the nodes' network": (bytes_in + bytes_out) / (plan.nodes * known.NODE_BYTES.value),
        "reads of the store": 1 / known.READS.value,
        "writes to the store": 1 / plan.shard_size / known.WRITES.value,
        "the driver": known.SHARD_SECONDS.value / plan.shard_size,
    }
    if traversal_gpus:
        use["traversal actors"] = sum(traversal.values()) / traversal_gpus
    rate = 1 / max(use.values())
    block = min(BLOCK_BYTES, 8 * features * plan.exemplars)
    held = plan.batch_size * (3300 * plan.size**2 + 8 * features)
    return Estimate(
        reconstruction=reconstruction,
        traversal=traversal,
        rate=rate,
        use={name: share * rate for name, share in sorted(use.items(), key=lambda item: -item[1])},
        bytes_in=plan.images * bytes_in,
        bytes_out=plan.images * bytes_out,
        features=matrix,
        in_flight=plan.gpus_per_node * SHARDS_IN_FLIGHT * plan.shard_size * (bytes_in + 8 * plan.exemplars),
        card=held + 16 * plan.exemplars**2 + 2 * block,
        driver=known.PROCESS_BYTES.value
        + known.DRIVER_BYTES.value
        + known.DRIVER_BYTES_PER_IMAGE.value * plan.images
        + known.SHARD_BYTES.value * plan.shards,
    )


def best_division(plan: PlanCommand, found: Estimate) -> int:
    """Return how many of at least 2 GPUs the traversal would need for both pools to be equally full."""
    share = sum(found.traversal.values()) / (sum(found.traversal.values()) + sum(found.reconstruction.values()))
    few = min(max(1, math.floor(plan.gpus * share)), plan.gpus - 1)
    return max((few, min(few + 1, plan.gpus - 1)), key=lambda gpus: estimate(plan, gpus, plan.gpus - gpus).rate)


def better_shard_size(plan: PlanCommand, found: Estimate) -> int:
    """Return a power of two: images of a shard that takes about two minutes.

    Fewer where a file would be larger than 256 MB, or where a GPU would have less than four shards.
    """
    in_two_minutes = 120 * found.rate / plan.gpus
    in_a_file = 256e6 / (found.bytes_out / plan.images)
    at_most = max(1.0, min(in_two_minutes, in_a_file, plan.images / plan.gpus / 4))
    return int(2 ** math.floor(math.log2(at_most)))


def losses_by_shard_size(plan: PlanCommand, rate: float) -> dict[int, Losses]:
    """Return what lost nodes cost, the mean of ``SIMULATIONS`` runs, for each size of a shard.

    Sizes that leave a GPU without any shard are left out, but for the run's own.

    Parameters:
        plan: the run and the cluster.
        rate: images per second of the cluster.
    """
    per_node = min(plan.gpus, plan.gpus_per_node)
    hours_per_image = plan.nodes * per_node / rate / 3600
    return {
        size: mean_losses(
            simulate_losses(
                math.ceil(plan.images / size),
                size * hours_per_image,
                plan.nodes,
                per_node,
                losses_per_node_day=plan.losses_per_node_day,
                hours_to_replace=plan.minutes_to_replace / 60,
                seed=plan.seed + number,
            )
            for number in range(SIMULATIONS)
        )
        for size in sorted({*SHARD_SIZES, plan.shard_size})
        if size * plan.gpus <= plan.images or size == plan.shard_size
    }

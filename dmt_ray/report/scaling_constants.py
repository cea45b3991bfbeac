"""What an estimate of a run rests on: figures, each with its source, and the data sheets of graphics cards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Constant:
    """One figure.

    Attributes:
        value: in ``unit``.
        unit: of the value.
        name: what it is.
        source: where it comes from: a benchmark, a document, a count, a data sheet.
        measured: whether this program was measured to get it; False for assumptions and data sheets.
    """

    value: float
    unit: str
    name: str
    source: str
    measured: bool


@dataclass(frozen=True)
class Card:
    """A graphics card as its data sheet has it.

    Attributes:
        matrix_tflops: dense matrix products per second in the precision that the program takes there: bfloat16, or
            float32 on cards that are older than Ampere.
        double_tflops: the same in float64, by tensor cores where there are any for it.
        memory_gb: of the card, in 10^9 bytes.
    """

    matrix_tflops: float
    double_tflops: float
    memory_gb: float


CARDS: dict[str, Card] = {
    "h200": Card(989, 67, 141),
    "h100": Card(989, 67, 80),
    "a100": Card(312, 19.5, 80),
    "l40s": Card(362, 1.4, 48),
    "a10g": Card(70, 0.5, 24),
    "l4": Card(121, 0.5, 24),
    "t4": Card(8.1, 0.25, 16),
}

EVALUATIONS = Constant(
    1.13,
    "evaluations",
    "values and gradients per L-BFGS iteration",
    "benchmarks/inversion_speed.py, 3 faces of 64 px, 10 iterations, CPU",
    measured=True,
)
GRADIENT_FORWARDS = Constant(
    2.0, "forward passes", "a value and its gradient to the pixels", "counted from the layers", measured=False
)
PICTURE_SECONDS = Constant(
    0.19,
    "core-seconds/megapixel",
    "decoding twice, resizing, joining and encoding a PNG",
    "benchmarks/scaling.py, 24 photos of 256 px, one core",
    measured=True,
)
INPUT_BYTES = Constant(0.40, "bytes/pixel", "a JPEG photo", "benchmarks/scaling.py, 24 photos", measured=True)
OUTPUT_BYTES = {
    "png": Constant(1.89, "bytes/pixel", "a result as PNG", "benchmarks/scaling.py, 24 photos", measured=True),
    "jpeg": Constant(0.62, "bytes/pixel", "a result as JPEG", "benchmarks/scaling.py, 24 photos", measured=True),
}
ROW_BYTES = Constant(
    290, "bytes", "a row without its image, and its line of the plan", "benchmarks/scaling.py", measured=True
)
DRIVER_BYTES = Constant(
    51e6, "bytes", "planning, whatever the number of images", "docs/inputs.md, CSV, 1 and 2 million", measured=True
)
DRIVER_BYTES_PER_IMAGE = Constant(
    129, "bytes/image", "planning, for each image", "docs/inputs.md, CSV, 1 and 2 million", measured=True
)
SHARD_BYTES = Constant(
    1100, "bytes/shard", "the driver's memory for a shard", "benchmarks/scaling.py, 3,000 shards", measured=True
)
SHARD_SECONDS = Constant(
    2e-3, "s/shard", "the driver's time for a shard", "benchmarks/scaling.py, 3,000 shards", measured=True
)
PROCESS_BYTES = Constant(0.7e9, "bytes", "Python, torch and the network", "docs/memory.md", measured=True)
UTILISATION = Constant(
    0.14,
    "",
    "share of a card's matrix rate that an inversion reaches",
    "benchmarks/gpu.py, 224 px, 32 images at once, one H200",
    measured=True,
)
#: Share of a card's memory that the features of the exemplars may take there; what takes more is copied every time.
RESIDENT_SHARE = 0.25
COPY_BYTES = Constant(
    10e9, "bytes/s", "copying features from a node's memory to its card", "an assumption", measured=False
)
NODE_BYTES = Constant(25e9 / 8, "bytes/s", "a node's network, 25 Gbit/s", "an assumption", measured=False)
READS = Constant(
    5500, "requests/s", "reads of one prefix of an object store", "Amazon's guide to S3 performance", measured=False
)
WRITES = Constant(
    3500, "requests/s", "writes to one prefix of an object store", "Amazon's guide to S3 performance", measured=False
)

#: Every constant, in the order in which they are told.
CONSTANTS: tuple[Constant, ...] = (
    EVALUATIONS,
    GRADIENT_FORWARDS,
    UTILISATION,
    COPY_BYTES,
    PICTURE_SECONDS,
    INPUT_BYTES,
    *OUTPUT_BYTES.values(),
    ROW_BYTES,
    NODE_BYTES,
    READS,
    WRITES,
    DRIVER_BYTES,
    DRIVER_BYTES_PER_IMAGE,
    SHARD_BYTES,
    SHARD_SECONDS,
    PROCESS_BYTES,
)

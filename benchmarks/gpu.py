"""Time the inversion on a GPU: ms per image and iteration, share of the card's matrix rate, memory, the best batch.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --sizes 32 --batches 1 2 --product 256 --seconds 60    # tried without a GPU

What is timed is the transform job's inversion with its defaults, on random pictures, from their own pixels to other
pictures' features. `fp32` computes convolutions in float32, `tf32` as PyTorch does by default where the program is
told `--precision fp32`, `bf16` is what `--precision auto` takes on cards that have it. It needs no Ray and no
connection; each line is printed as soon as it is known, and it ends by itself after `--seconds`.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from _gpu_inversion import matrix_rate, objective_of, operations, pictures, run, seconds, tf32, weights_of

from dmt_ray.method.class_manifold import build_manifold
from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.method.metrics.lpips import lpips_shapes
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import ModelConfig, TransformerSettings
from dmt_ray.method.transformer import Transformer
from dmt_ray.method.traversal.selection import ImageIdentity

MIB = 2**20
PRECISIONS = ("bf16", "tf32", "fp32")
#: Fewer iterations than this say little of an iteration.
FEWEST = 3


@dataclass(frozen=True)
class Line:
    """One line of the table."""

    backbone: str
    size: int
    precision: str
    batch: int
    iterations: int
    ms: float
    """Per image and iteration."""
    network_ms: float
    """Per image: value and gradient once."""
    evaluations: float
    """Of value and gradient, per image and iteration."""
    rate: float
    """Floating-point operations a second."""
    memory: float | None
    """Peak bytes per image; None where nobody counts."""
    formula: float
    """What docs/memory.md says of them."""

    def text(self, ceiling: float) -> str:
        """Return the line as the table has it; ``ceiling`` is the rate of the bf16 matrix product."""
        memory = "-" if self.memory is None else f"{self.memory / MIB:.1f}"
        share = "-" if self.memory is None else f"{self.memory / self.formula:.2f}"
        return (
            f"{self.backbone:9}{self.size:5}{self.precision:>6}{self.batch:6}{self.iterations:6}"
            f"{self.ms:11.4f}{self.network_ms:11.4f}{self.evaluations:8.2f}{self.rate / 1e12:9.2f}"
            f"{100 * self.rate / ceiling:7.1f}{memory:>10}{share:>9}"
        )


HEAD = (
    f"{'network':9}{'px':>5}{'':>6}{'batch':>6}{'iter.':>6}{'ms/im/it':>11}{'ms/im/eval':>11}{'eval/it':>8}"
    f"{'TFLOP/s':>9}{'% peak':>7}{'MiB/im':>10}{'/formula':>9}"
)


def host_reads(network: FeatureNetwork, size: int) -> str:
    """Say how often an iteration makes the host wait for the device, and where."""
    if network.device.type != "cuda":
        return "waits of the host per iteration: only counted on CUDA"
    objective, start = objective_of(network, 2, size)

    def waits(iterations: int) -> Counter[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                run(objective, start, iterations)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        mine = (each for each in caught if "synchroniz" in str(each.message))
        return Counter(f"{each.filename.rpartition('/')[2]}:{each.lineno}" for each in mine)

    run(objective, start, 2)
    few, many = waits(4), waits(12)
    more = {where: (many[where] - few[where]) / 8 for where in many}
    listed = ", ".join(f"{where} {count:g}" for where, count in more.items() if count)
    return f"waits of the host per iteration: {sum(more.values()):.2f} ({listed or 'none'})"


def stages(network: FeatureNetwork, size: int, batch: int, exemplars: int) -> Iterator[str]:
    """Yield how long each stage of the transform job's editor takes, LPIPS to the input included."""
    random = np.random.default_rng(0)

    def photos(seed: int, count: int) -> list[tuple[np.ndarray, ImageIdentity]]:
        planes = pictures(count, size, torch.device("cpu"), seed).permute(0, 2, 3, 1).to(torch.uint8).numpy()
        return [(rgb, ImageIdentity()) for rgb in planes]

    settings = TransformerSettings(size)
    sets = [photos(1, exemplars // 2), photos(2, exemplars - exemplars // 2), []]
    made: list[dict[str, np.ndarray]] = []
    spent = seconds(network.device, lambda: made.append(build_manifold(network, sets, exemplars, settings)))
    yield f"learning from {exemplars} exemplars: {1e3 * spent / exemplars:.2f} ms an exemplar"
    lpips = {
        name: np.abs(random.standard_normal(shape, np.float32)) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
        for name, shape in lpips_shapes("vgg16").items()
    }
    editor = Transformer(network, made[0], settings, lpips)
    inputs = np.stack([editor.working(rgb) for rgb, _ in photos(3, batch)])
    identities = [ImageIdentity()] * batch
    moved = editor.traverse(inputs, identities)  # the first call allocates
    spent = seconds(network.device, lambda: editor.traverse(inputs, identities), 3)
    yield f"traversal: {1e3 * spent / batch:.2f} ms an image"
    masks = [None] * batch
    editor.reconstruct(inputs, moved, masks)
    spent = seconds(network.device, lambda: editor.reconstruct(inputs, moved, masks), 3)
    iterations = settings.inversion.iterations
    yield f"reconstruction, {iterations} iterations, LPIPS: {1e3 * spent / batch:.2f} ms an image"


def profile(network: FeatureNetwork, size: int, batch: int) -> str:
    """Return the kernels and operators that an inversion spends most time in."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if network.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    objective, start = objective_of(network, batch, size)
    run(objective, start, 2)
    with torch.profiler.profile(activities=activities) as found:
        run(objective, start, 8)
    by = "self_device_time_total" if network.device.type == "cuda" else "self_cpu_time_total"
    return str(found.key_averages().table(sort_by=by, row_limit=20, max_name_column_width=60))


class Bench:
    """Measures lines until time is up."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.deadline = time.perf_counter() + float(options.seconds)
        self.lines: list[Line] = []

    @property
    def left(self) -> float:
        """Seconds until time is up."""
        return self.deadline - time.perf_counter()

    def network(self, backbone: str, precision: str, arrays: dict[str, np.ndarray]) -> FeatureNetwork:
        """Return a network with the default taps on the device."""
        name = "bf16" if precision == "bf16" else "fp32"
        return FeatureNetwork(arrays, backbone, ModelConfig.taps, precision=name, device=self.device)

    def measure(self, network: FeatureNetwork, size: int, precision: str, batch: int, flops: tuple[int, int]) -> Line:
        """Measure one line."""
        cuda = self.device.type == "cuda"
        before = 0
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        objective, start = objective_of(network, batch, size)
        rows, flat = objective.everything(), start.flatten(1)
        objective(flat, rows)  # the first call allocates, and chooses kernels
        once = seconds(self.device, lambda: objective(flat, rows), 2)
        run(objective, start, 1)
        wanted = int(self.options.each / max(1e-9, 1.5 * once))
        iterations = max(FEWEST, min(self.options.iterations, wanted))
        objective.images = 0
        steps = 0

        def inversion() -> None:
            nonlocal steps
            steps = run(objective, start, iterations)

        spent = seconds(self.device, inversion)
        done = objective.images * flops[0] + 2 * batch * flops[1]
        peak = (torch.cuda.max_memory_allocated() - before) / batch if cuda else None
        values = values_per_pixel(network.backbone, network.taps)
        return Line(
            *(network.backbone, size, precision, batch, iterations),
            ms=1e3 * spent / max(1, steps),
            network_ms=1e3 * once / batch,
            evaluations=objective.images / max(1, steps),
            rate=done / spent,
            memory=peak,
            formula=inversion_bytes(size**2, values, half=precision == "bf16"),
        )

    def series(self, network: FeatureNetwork, size: int, precision: str, ceiling: float) -> None:
        """Print a line for each batch size, up to what fits."""
        first = precision == self.options.precisions[0] and network.backbone == self.options.backbones[0]
        batches = self.options.batches if first else self.options.few_batches
        flops = operations(network, size)
        for batch in batches:
            known = self.lines[-1] if self.lines else None
            needed = 0.0
            if known is not None and (known.backbone, known.size, known.precision) == (
                network.backbone,
                size,
                precision,
            ):
                needed = 1e-3 * batch * known.network_ms * 1.3 * (FEWEST + 6)
            if self.left < needed:
                print(f"{network.backbone:9}{size:5}{precision:>6}{batch:6}   left out: no time", flush=True)
                continue
            try:
                line = self.measure(network, size, precision, batch, flops)
            except RuntimeError as error:  # a kernel may also refuse so large a batch
                memory = isinstance(error, torch.OutOfMemoryError)
                reason = "out of memory" if memory else str(error).strip().partition("\n")[0][:100]
                print(f"{network.backbone:9}{size:5}{precision:>6}{batch:6}   {reason}", flush=True)
                break
            self.lines.append(line)
            print(line.text(ceiling), flush=True)

    def best(self) -> list[Line]:
        """Return the quickest line of each network, size and precision."""
        found: dict[tuple[str, int, str], Line] = {}
        for line in self.lines:
            key = (line.backbone, line.size, line.precision)
            if key not in found or line.ms < found[key].ms:
                found[key] = line
        return list(found.values())


def describe(device: torch.device) -> str:
    if device.type != "cuda":
        return f"{device}, torch {torch.__version__}"
    properties = torch.cuda.get_device_properties(device)
    memory = properties.total_memory / 2**30
    return f"{properties.name}, {memory:.0f} GiB, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def parse() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--backbones", nargs="+", default=["vgg16", "vgg19"], choices=list(BACKBONES))
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 224, 512] if cuda else [32, 64])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument(
        "--batches", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 256] if cuda else [1, 2]
    )
    parser.add_argument(
        "--few-batches",
        nargs="+",
        type=int,
        default=[8, 64, 256] if cuda else [2],
        help="of all but the first network in the first precision",
    )
    parser.add_argument("--iterations", type=int, default=10, help="at most, of each line")
    parser.add_argument("--each", type=float, default=2.0, help="seconds that a line's inversion may take, about")
    parser.add_argument("--seconds", type=float, default=150.0, help="after which no further line is begun")
    parser.add_argument("--product", type=int, default=8192 if cuda else 512, help="side of the matrix product")
    parser.add_argument("--weights", default="random", help="random, or what the jobs' --weights takes")
    parser.add_argument("--stages", nargs=2, type=int, metavar=("PX", "BATCH"), help="time the editor's stages, too")
    parser.add_argument("--profile", nargs=2, type=int, metavar=("PX", "BATCH"), help="where time goes, at the end")
    parser.add_argument("--data", help="ignored: `make bench` gives it to every benchmark")
    return parser.parse_args()


def main() -> int:
    """Print the table; return 0."""
    options = parse()
    device = torch.device(options.device)
    print(describe(device), flush=True)
    ceiling = matrix_rate(device, options.product)
    print(f"bf16 product of {options.product}^3: {ceiling / 1e12:.2f} TFLOP/s", flush=True)
    bench = Bench(options, device)
    printed = False
    for backbone in options.backbones:
        arrays = weights_of(backbone, options.weights)
        for precision in options.precisions:
            with tf32(precision == "tf32"):
                network = bench.network(backbone, precision, arrays)
                if not printed:
                    print(host_reads(network, options.sizes[0]), flush=True)
                    print(HEAD, flush=True)
                    printed = True
                for size in options.sizes:
                    bench.series(network, size, precision, ceiling)
    print("\nThe best batch of each:")
    print(HEAD)
    for line in bench.best():
        print(line.text(ceiling), flush=True)
    arrays = weights_of(options.backbones[0], options.weights)
    precision = options.precisions[0]
    with tf32(precision == "tf32"):
        network = bench.network(options.backbones[0], precision, arrays)
        if options.stages:
            size, batch = options.stages
            print(f"\nThe editor's stages, {precision}, {size} px, {batch} images at once:")
            for sentence in stages(network, size, batch, 200 if device.type == "cuda" else 8):
                print(sentence, flush=True)
        if options.profile:
            print(profile(network, *options.profile), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

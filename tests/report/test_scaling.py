"""Estimates of runs: counted operations against torch's own count, formulas against the documents, money by hand."""

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import conv_backward_flop, conv_flop_count

from dmt_ray.cli import main
from dmt_ray.errors import SettingsError
from dmt_ray.jobs.exemplars import READER_THREADS
from dmt_ray.method.metrics.lpips import lpips_shapes
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.feature_network import FeatureNetwork
from dmt_ray.method.settings import ModelConfig
from dmt_ray.method.traversal import device_blocks
from dmt_ray.method.traversal.manifold import RESIDENT_SHARE
from dmt_ray.report import scaling_constants as known
from dmt_ray.report.scaling import (
    BLOCK_BYTES,
    LPIPS_LAYERS,
    PICTURE_THREADS,
    Estimate,
    PlanCommand,
    best_division,
    better_shard_size,
    estimate,
    feature_count,
    forward_flops,
)
from dmt_ray.report.scaling_text import plan_sentences
from dmt_ray.storage.models.weights import resolve_weights

ROOT = Path(__file__).parents[2]
SIZE = 32


class Operations(TorchFunctionMode):
    """Counts what torch's own formulas say of each convolution, going forward and back to its input."""

    forward = backward = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.nn.functional.conv2d:
            picture, weight = args[0].shape, args[1].shape
            self.forward += conv_flop_count(picture, weight, result.shape)
            shapes, to_input = (result.shape, picture, weight), (True, False, False)
            self.backward += conv_backward_flop(*shapes, *[None] * 4, False, None, None, to_input, out_val=[picture])
        return result


def _network(backbone: str) -> FeatureNetwork:
    weights = resolve_weights(backbone, "random:0")
    return FeatureNetwork(weights.arrays, backbone, ModelConfig.taps, precision="fp32", device=torch.device("cpu"))


@pytest.mark.parametrize("backbone", ["vgg16", "vgg19"])
def test_operations_are_those_that_torch_counts(backbone):
    """Forward, and a value with its gradient to the pixels, which the inversion is made of."""
    network = _network(backbone)
    counted = forward_flops(BACKBONES[backbone].layers, SIZE)
    with torch.no_grad(), Operations() as counter:
        maps = network(torch.rand(1, 3, SIZE, SIZE))
    assert counter.forward == counted
    assert counter.forward + counter.backward == known.GRADIENT_FORWARDS.value * counted
    assert feature_count(backbone, SIZE) == sum(each[0].numel() for each in maps)


def test_the_layers_of_lpips_are_those_that_it_has():
    shapes = [shape for name, shape in lpips_shapes("vgg16").items() if name.endswith("weight") and "lin" not in name]
    assert shapes == [(each.channels_out, each.channels_in, each.kernel, each.kernel) for each in LPIPS_LAYERS]


def test_what_is_taken_over_from_elsewhere_is_still_so_there():
    assert PICTURE_THREADS == READER_THREADS
    assert BLOCK_BYTES == device_blocks.BLOCK_BYTES
    assert known.RESIDENT_SHARE == RESIDENT_SHARE
    pools = (ROOT / "dmt_ray/pipeline/pools.py").read_text(encoding="utf-8")
    assert "IN_FLIGHT = 2" in pools


def test_every_constant_has_a_source_and_measured_ones_one_of_this_repository():
    for each in known.CONSTANTS:
        assert each.source
        files = re.findall(r"\b(?:docs|benchmarks)/\w+\.\w+", each.source)
        assert bool(files) == each.measured, each.name
        for file in files:
            assert (ROOT / file).is_file(), file


def test_constants_of_the_driver_are_those_of_the_document():
    """One and two million inputs, as docs/inputs.md has them, on one straight line."""
    text = (ROOT / "docs/inputs.md").read_text(encoding="utf-8")
    one = float(re.search(r"\| CSV of URIs \| [\d.]+ \| (\d+) ", text)[1])
    two = float(re.search(r"Two million take \d+, (\d+) and", text)[1])
    assert known.DRIVER_BYTES_PER_IMAGE.value == pytest.approx((two - one) * 1e6 / 1e6, abs=0.5)
    assert known.DRIVER_BYTES.value == pytest.approx((2 * one - two) * 1e6)


def test_memory_is_that_of_the_document():
    """docs/memory.md: 200 exemplars at 224 px take 0.5 GB; at 512 px a batch of 8 takes 7 GB, at 1024 px 29."""
    assert _estimate(size=224).features == pytest.approx(0.5e9, rel=0.1)
    assert _estimate(size=512, batch_size=8).card == pytest.approx(7e9 + 2 * BLOCK_BYTES, rel=0.1)
    assert _estimate(size=1024, batch_size=8).card == pytest.approx(29e9 + 2 * BLOCK_BYTES, rel=0.1)


def _plan(**changes) -> PlanCommand:
    return PlanCommand(**({"images": 1_000_000, "size": 256, "gpus": 16} | changes))


def _estimate(**changes) -> Estimate:
    return estimate(_plan(**changes), 3, 13)


def test_a_run_by_hand():
    plan = _plan(utilisation=0.5, copy_rate=20.0, iterations=10, exemplars=100, batch_size=4)
    found = estimate(plan, 3, 13)
    forward = 2 * 287_424 * 256**2  # multiply-adds of VGG-16 to conv5_1 for each pixel
    lpips = 2 * 2 * 306_720 * 256**2
    network = (10 * 1.13 * 2 * forward + lpips) / (989e12 * 0.5)
    assert found.reconstruction["the network"] == pytest.approx(network, rel=0.01)
    assert found.reconstruction["copying features to the card"] == 0  # they lie there
    many = estimate(_plan(exemplars=8000, copy_rate=20.0, batch_size=4), 3, 13)
    copy = 2 * 8000 * 26 * 256**2 / 20e9 / 4
    assert many.reconstruction["copying features to the card"] == pytest.approx(copy)
    assert found.reconstruction["decoding and encoding"] == pytest.approx(0.065536 * 0.19 / 4)
    assert found.rate == pytest.approx(
        min(13 / sum(found.reconstruction.values()), 3 / sum(found.traversal.values()))
    )
    assert found.bytes_in == pytest.approx(1e6 * 65536 * 0.40)
    assert found.bytes_out == pytest.approx(1e6 * (65536 * 1.89 + 290))


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({"exemplars": 20}, "reconstruction actors"),
        ({"exemplars": 8000}, "traversal actors"),
        ({"megapixels": 24.0}, "reconstruction actors"),
        ({"size": 32, "exemplars": 1, "gpus": 512}, "reads of the store"),
        ({"size": 32, "exemplars": 1, "gpus": 512, "shard_size": 1}, "the driver"),
        ({"size": 32, "exemplars": 1, "iterations": 1, "gpus": 512, "megapixels": 100.0}, "reconstruction actors"),
    ],
)
def test_what_saturates_first(changes, first):
    plan = _plan(**changes)
    found = estimate(plan, plan.gpus // 6, plan.gpus - plan.gpus // 6)
    assert next(iter(found.use)) == first
    assert next(iter(found.use.values())) == pytest.approx(1)
    assert max(found.use.values()) == pytest.approx(1)


def test_more_of_anything_takes_longer():
    few = {"exemplars": 50}  # so that the reconstruction is the slower of the two
    rate = _estimate(**few).rate
    changes = (
        {"size": 512},
        {"steps": 2},
        {"iterations": 40},
        {"megapixels": 9.0},
    )
    for change in changes:
        assert _estimate(**(few | change)).rate < rate, change
    many = {"exemplars": 8000}
    assert _estimate(**many, copy_rate=1.0).rate < _estimate(**many).rate < _estimate(**many, batch_size=64).rate
    assert _estimate(**few, gpu="l4").rate < rate


def test_a_traversal_that_shares_a_gpu_takes_its_time():
    plan = _plan(gpus=1)
    found = estimate(plan, 0, 1)
    assert 1 / found.rate == pytest.approx(sum(found.reconstruction.values()) + sum(found.traversal.values()))


def test_what_the_command_prints(capsys):
    command = "plan --images 10000000 --size 256 --gpus 64 --gpu h100 --price-per-gpu-hour 2.5"
    assert main(command.split()) == 0
    text = capsys.readouterr().out
    plan = PlanCommand(images=10_000_000, size=256, gpus=64, gpu="h100", price_per_gpu_hour=2.5)
    found = estimate(plan, 11, 53)  # as the run itself would divide them
    assert text.splitlines() == list(plan_sentences(plan, found, 11, 53))
    assert "measured on one card" in text
    assert f"{64 * 2.5 / found.rate / 3.6:.4f} per thousand" in text
    assert "Shards: 312,500 of 32 images" in text
    assert re.search(r"--shard-size \d+ makes", text)
    assert "--traversal-actors 2 would make it" in text
    for each in known.CONSTANTS:
        assert f"{'measured' if each.measured else 'not measured'}: {each.source})" in text


def test_the_example_in_the_document_is_what_the_command_prints(capsys):
    [command, shown] = re.search(
        r"^\$ dmt-ray ([^\n]+)\n(.+?)\n```", (ROOT / "docs/scaling.md").read_text(encoding="utf-8"), re.M | re.S
    ).groups()
    assert main(command.split()) == 0
    assert capsys.readouterr().out.startswith(shown + "\n\nConstants:")


def test_why_the_reconstruction_is_the_slowest():
    parts = {"copying features to the card": {"exemplars": 8000}, "the network": {}}
    for part, changes in (parts | {"decoding and encoding": {"megapixels": 24.0}}).items():
        plan = _plan(**changes)
        text = "\n".join(plan_sentences(plan, estimate(plan, 13, 3), 13, 3))
        assert f"Saturates first: reconstruction actors, by {part}." in text


def test_the_best_division_is_the_best():
    for changes in ({}, {"exemplars": 4000}, {"exemplars": 10}, {"gpus": 2}, {"gpus": 5, "gpu": "l4"}):
        plan = _plan(**changes)
        rates = {gpus: estimate(plan, gpus, plan.gpus - gpus).rate for gpus in range(1, plan.gpus)}
        assert rates[best_division(plan, estimate(plan, 1, plan.gpus - 1))] == max(rates.values())


def test_a_better_size_of_a_shard():
    for changes in ({}, {"gpu": "t4"}, {"megapixels": 24.0}, {"images": 500}):
        plan = _plan(**changes)
        found = estimate(plan, 3, 13)
        size = better_shard_size(plan, found)
        assert size * plan.gpus / found.rate <= 120
        assert size == 1 or size * found.bytes_out / plan.images <= 256e6
        assert size == 1 or plan.images / size >= 4 * plan.gpus


def test_a_batch_that_does_not_fit_is_said():
    plan = _plan(size=1024, gpu="t4", price_per_gpu_hour=None)
    text = "\n".join(plan_sentences(plan, estimate(plan, 3, 13), 3, 13))
    assert "GB of 16 GB at a batch of 32: too little" in text
    assert "Cost" not in text


@pytest.mark.parametrize(
    ("option", "value"),
    [("images", 0), ("size", 100), ("gpu", "abacus"), ("utilisation", 0.0), ("megapixels", float("nan"))],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(SettingsError, match=f"--{option} is "):
        dataclasses.replace(_plan(), **{option: value})

"""How many images go side by side, from the memory that is there and from what did not fit."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from dmt_ray.method.memory import inversion_bytes, values_per_pixel
from dmt_ray.pipeline.batch_size import MOST, BatchSize, fitting
from dmt_ray.pipeline.bisecting import run_bisecting

GIB = 2**30
VALUES = values_per_pixel("vgg16", ("conv3_1", "conv4_1", "conv5_1"))


def test_the_default_taps_have_the_documents_number_of_features():
    assert VALUES == 26


@pytest.mark.parametrize(
    ("gib", "size", "images"),
    # 512 px take 877 MiB an image in float32 and 502 in bfloat16: docs/memory.md
    [(16, 512, {False: 14, True: 25}), (80, 512, {False: 78, True: 136}), (80, 1024, {False: 19, True: 34})],
)
def test_as_many_images_as_the_formula_says_fit(gib, size, images):
    for half, count in images.items():
        each = inversion_bytes(size**2, VALUES, half=half)
        assert fitting(gib * GIB, gib * GIB, each) == count
        assert count * each <= 0.85 * gib * GIB - GIB < (count + 1) * each


def test_one_image_is_always_tried_and_no_more_than_help():
    each = inversion_bytes(1024**2, VALUES)
    assert fitting(GIB, 8 * GIB, each) == 1
    assert fitting(80 * GIB, 80 * GIB, 1000.0) == MOST


def test_a_share_of_a_gpu_is_not_exceeded():
    each = inversion_bytes(512**2, VALUES)
    counts = [fitting(80 * GIB, 80 * GIB, each, share) for share in (0.25, 0.5, 0.75, 1.0)]
    assert all(less < more for less, more in pairwise(counts))
    assert fitting(10 * GIB, 80 * GIB, each, 0.5) == fitting(10 * GIB, 80 * GIB, each)


def test_on_the_cpu_it_is_eight_and_a_number_is_a_number():
    assert BatchSize("auto", "cpu").most(64**2, 1e12) == 8
    assert BatchSize(3, "cpu").most(64**2, 1e12) == BatchSize(3, "cpu").limit == 3


@pytest.mark.parametrize("asked", [16, "auto"])
def test_what_did_not_fit_is_remembered(asked):
    size = BatchSize(asked, "cpu")
    size.note_out_of_memory(8)
    assert size.most(64**2, 1.0) == 4
    size.note_out_of_memory(16)  # of a batch that was begun before
    assert size.most(64**2, 1.0) == 4
    for _ in range(5):
        size.note_out_of_memory(size.most(64**2, 1.0))
    assert size.most(64**2, 1.0) == size.limit == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_card_that_is_full_halves_the_batch_and_is_remembered():
    """The process may take a quarter of a GiB; each input takes 32 MiB twice."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    size, seen = BatchSize("auto", "cuda:0"), []
    before = torch.cuda.memory_reserved()
    torch.cuda.set_per_process_memory_fraction((before + 2**28) / total)

    def step(batch):
        seen.append(len(batch))
        tensor = torch.ones(len(batch), 2**23, device="cuda")
        return (tensor + tensor).sum(1).tolist()

    try:
        results = run_bisecting(step, list(range(16)), size.note_out_of_memory)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
    assert results == [2.0 * 2**23] * 16
    assert seen[0] == 16
    assert size.most(32**2, 2.0**26) <= max(1, min(count for count in seen if count > 1))
    assert BatchSize("auto", "cuda:0").most(32**2, 2.0**20) == MOST
    assert BatchSize("auto", "cuda:0").most(512**2, 2.0**20) == 16

"""Every way through the method on a device that is not the CPU: nothing is mixed, and little is read back."""

import numpy as np
import pytest
import torch

if torch.cuda.is_available():
    pytest.skip("There is a real device, see test_cuda.py; torch has room for one.", allow_module_level=True)

from pretend_device import pretend, reads
from ways import CPU, WAYS, colorize, transform

from dmt_ray.method import lbfgs

QUICK = [(transform, "local"), (transform, "held"), (colorize, "local")]
MARKED = [each if each in QUICK else pytest.param(*each, marks=pytest.mark.slow) for each in WAYS]


@pytest.mark.parametrize(("way", "name"), MARKED)
def test_a_device_gives_what_the_cpu_gives_and_reads_little_back(way, name, vgg16_arrays):
    expected = way(vgg16_arrays, name, CPU)
    with pretend() as device:
        found = way(vgg16_arrays, name, device, reads.clear)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(a.picture, b.picture)
            assert a.figures == b.figures
            assert a.verdict == b.verdict
    inverting = sum(count for what, count in reads.items() if "lbfgs.py" in what)
    iterations = sum(max(each.iterations for each in step) for step in zip(*found, strict=True))
    if name != "until flipped":  # which shows one attempt of several
        # At most two reads an iteration of the batch, and one to begin each step with.
        assert 0 < inverting <= 2 * iterations + len(found[0]), reads


def test_mixing_with_the_cpu_is_refused():
    with pretend() as device, pytest.raises(RuntimeError, match="mixes the device with the CPU"):
        torch.ones(3).to(device) + torch.ones(3)


def test_reads_are_counted():
    with pretend() as device:
        values = torch.arange(3.0).to(device)
        assert float(values.sum()) == 3
        assert values.tolist() == [0, 1, 2]
        assert len(values[values > 0]) == 2
    assert sum(reads.values()) == 3


def test_an_iteration_reads_back_once():
    def bowl(x: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        far = x - (1 + rows)[:, None]
        stretch = torch.arange(1.0, 1 + x.shape[1]).to(x)
        return (stretch * far.square()).sum(1), 2 * stretch * far

    start = torch.zeros(4, 30)
    expected = lbfgs.minimise(bowl, start, iterations=12, lower=-3, upper=3)
    with pretend() as device:
        found = lbfgs.minimise(bowl, start.to(device), iterations=12, lower=-3, upper=3)
        count = sum(reads.values())
        x = found.x.cpu()
    assert torch.equal(x, expected.x)
    assert 12 <= count <= 18, reads  # one to begin with, one for each iteration, and one for each backtrack

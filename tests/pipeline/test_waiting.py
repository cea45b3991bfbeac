"""What a run waits for, how long, and what it asks an autoscaler for."""

import pytest

from dmt_ray.config import ComputeConfig
from dmt_ray.pipeline.waiting import bundles_for, missing_in, wait_seconds


@pytest.mark.parametrize(
    ("options", "nodes", "lacks"),
    [
        ({}, [{}], "no CPUs"),
        ({}, [{"CPU": 1.0}], None),
        ({"wait_for_gpus": 2}, [{"CPU": 8.0}], "0 of the 2 GPUs"),
        ({"wait_for_gpus": 2}, [{"GPU": 1.0}], "1 of the 2 GPUs"),
        ({"wait_for_gpus": 2}, [{"GPU": 1.0}, {"GPU": 1.0}], None),
        ({"wait_for_gpus": 2, "gpus_per_actor": 2.0}, [{"GPU": 1.0}, {"GPU": 1.0}], "no node"),
        ({"reconstruction_actors": "2:8"}, [{"CPU": 4.0}], "room for 1"),
        ({"reconstruction_actors": "2:8"}, [{"CPU": 4.0}, {"CPU": 4.0}], None),
        ({"reconstruction_actors": 8}, [{"CPU": 1.0}], None),  # fixed pools work with what there is
    ],
)
def test_what_is_missing(options, nodes, lacks):
    found = missing_in(nodes, ComputeConfig(**options))
    assert found is None if lacks is None else lacks in found


@pytest.mark.parametrize(
    ("options", "seconds", "bundles"),
    [
        ({}, 0, [{"CPU": 1}]),
        ({"reconstruction_actors": 8}, 0, [{"CPU": 1}]),
        ({"wait_for_workers": 60.0}, 60, [{"CPU": 1}]),
        ({"reconstruction_actors": "3:8", "threads_per_actor": 4}, 1800, [{"CPU": 4}] * 3),
        ({"reconstruction_actors": "3:8", "wait_for_workers": 0.0}, 0, [{"CPU": 1}] * 3),
        ({"wait_for_gpus": 3}, 1800, [{"GPU": 1}] * 3),
        ({"wait_for_gpus": 4, "gpus_per_actor": 2.0, "wait_for_workers": 5.0}, 5, [{"GPU": 2}] * 2),
        ({"wait_for_gpus": 2, "gpus_per_actor": 0.5}, 1800, [{"GPU": 1}] * 2),
    ],
)
def test_how_long_and_for_what(options, seconds, bundles):
    compute = ComputeConfig(**options)
    assert wait_seconds(compute) == seconds
    assert bundles_for(compute) == bundles

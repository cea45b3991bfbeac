import pytest

from dmt_ray.config import ComputeConfig
from dmt_ray.errors import SettingsError
from dmt_ray.pipeline.resources import plan_pools


def total(plan, resource):
    return sum(pool.actors * getattr(pool, resource) for pool in (plan.traversal, plan.reconstruction))


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 64, 256])
@pytest.mark.parametrize("nodes", [1, 4])
def test_cpu_pools_leave_room_and_use_the_cores(cpus, nodes):
    plan = plan_pools([{"CPU": float(cpus), "memory": 1e9}] * nodes, ComputeConfig())
    everything = cpus * nodes
    assert total(plan, "num_gpus") == 0
    assert total(plan, "num_cpus") <= (everything - 1 if everything > 1 else 0.5)
    assert plan.traversal.actors >= 1
    assert plan.reconstruction.actors >= plan.traversal.actors
    busy = plan.reconstruction.actors * plan.reconstruction.threads
    assert 0.75 * everything <= busy <= everything
    assert 1 <= plan.reconstruction.threads <= 8
    assert plan.reconstruction.num_cpus <= cpus


@pytest.mark.parametrize(("gpus", "share"), [(1, 1.0), (1, 0.5), (1, 0.25), (2, 1.0), (4, 1.0), (8, 1.0), (8, 0.5)])
def test_gpu_pools_take_no_cpu_and_fit(gpus, share):
    plan = plan_pools([{"CPU": 16.0, "GPU": float(gpus)}], ComputeConfig(gpus_per_actor=share))
    assert total(plan, "num_cpus") == 0
    assert total(plan, "num_gpus") <= gpus + 1e-6 + share / 4
    assert plan.reconstruction.actors > 0.7 * gpus / share - 1e-9
    assert plan.reconstruction.actors >= plan.traversal.actors >= 1


def test_gpu_pools_share_a_single_gpu():
    plan = plan_pools([{"CPU": 4.0, "GPU": 1.0}], ComputeConfig())
    assert (plan.reconstruction.actors, plan.reconstruction.num_gpus) == (1, 0.75)
    assert (plan.traversal.actors, plan.traversal.num_gpus) == (1, 0.25)


def test_a_gpu_slot_never_spans_nodes():
    plan = plan_pools([{"CPU": 4.0, "GPU": 1.0}] * 3, ComputeConfig(gpus_per_actor=1.0))
    assert plan.reconstruction.actors == 3
    with pytest.raises(SettingsError, match="no node"):
        plan_pools([{"CPU": 4.0, "GPU": 1.0}] * 3, ComputeConfig(gpus_per_actor=2.0))


@pytest.mark.parametrize(("shards", "threads"), [(1, 8), (3, 5), (4, 4), (100, 4)])
def test_few_shards_get_more_threads_each(shards, threads):
    plan = plan_pools([{"CPU": 16.0}], ComputeConfig(), shards)
    assert plan.reconstruction.threads == threads
    assert total(plan, "num_cpus") <= 15


def test_options_are_obeyed():
    plan = plan_pools([{"CPU": 16.0}], ComputeConfig(reconstruction_actors=8, traversal_actors=2))
    assert (plan.reconstruction.actors, plan.traversal.actors, plan.reconstruction.threads) == (8, 2, 2)
    plan = plan_pools([{"CPU": 16.0}], ComputeConfig(threads_per_actor=1))
    assert (plan.reconstruction.actors, plan.reconstruction.threads) == (16, 1)
    plan = plan_pools([{"CPU": 2.0}], ComputeConfig(reconstruction_actors=2, traversal_actors=2))
    assert total(plan, "num_cpus") <= 1
    plan = plan_pools([{"GPU": 8.0}], ComputeConfig(reconstruction_actors=7))
    assert (plan.reconstruction.actors, plan.traversal.actors) == (7, 1)
    with pytest.raises(SettingsError, match="need 10 GPUs; the cluster has 8"):
        plan_pools([{"GPU": 8.0}], ComputeConfig(reconstruction_actors=8, traversal_actors=2))


@pytest.mark.parametrize("nodes", [[{"CPU": 4.0}], [{"CPU": 16.0}, {"CPU": 8.0}], [{"CPU": 2.0}] * 3])
def test_a_slot_of_an_elastic_pool_has_room_for_one_of_each_and_more_may_come(nodes):
    plan = plan_pools(nodes, ComputeConfig(reconstruction_actors="1:64"))
    pools = plan.reconstruction, plan.traversal
    assert [(pool.least, pool.actors) for pool in pools] == [(1, 64), (1, 16)]
    threads = plan.reconstruction.threads
    assert sum(pool.num_cpus for pool in pools) == threads == min(4, max(node["CPU"] for node in nodes))
    assert plan.reconstruction.num_cpus > threads / 2  # two of them on one node's slot would be too many threads


def test_elastic_pools_on_gpus():
    plan = plan_pools([{"GPU": 1.0}], ComputeConfig(reconstruction_actors="1:8", traversal_actors="1:3"))
    assert [(p.least, p.actors, p.num_gpus) for p in (plan.reconstruction, plan.traversal)] == [
        (1, 8, 0.75),
        (1, 3, 0.25),
    ]
    plan = plan_pools([{"GPU": 4.0}], ComputeConfig(traversal_actors="1:3", gpus_per_actor=0.5))
    assert (plan.reconstruction.least, plan.reconstruction.actors, plan.reconstruction.num_gpus) == (1, 8, 0.375)
    plan = plan_pools([{"GPU": 1.0}], ComputeConfig(reconstruction_actors="1:8", traversal_actors=2))
    assert (plan.traversal.least, plan.traversal.actors) == (1, 2)  # a plain number: as many as there is room for
    with pytest.raises(SettingsError, match=r"room for 1\. Give --wait-for-workers"):
        plan_pools([{"GPU": 1.0}], ComputeConfig(reconstruction_actors="2:8"))


def test_a_cluster_without_anything_is_refused():
    with pytest.raises(SettingsError, match="no CPUs"):
        plan_pools([{"CPU": 0.0}], ComputeConfig())

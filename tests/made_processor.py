"""A run's ``ShardProcessor`` in the test's own process, without Ray."""

from dmt_ray.jobs.exemplars import learn_exemplars
from dmt_ray.pipeline.prepare import prepare_run
from dmt_ray.pipeline.shard_processor import ShardProcessor


def made_processor(config, *, judge=False, **options):
    """Return the prepared run, its processor on the CPU, and what was learned; the run's judge with ``judge``."""
    run = prepare_run(config)
    judging = {"judge": run.judge} if judge else {}
    exemplars, learned = learn_exemplars(run.weights.arrays, run.exemplars, run.config, "cpu", **judging)
    processor = ShardProcessor(
        run.weights.arrays,
        exemplars,
        run.config,
        device="cpu",
        weights_label=run.weights_label,
        fingerprint=run.fingerprint,
        worker="here:1",
        **judging,
        **options,
    )
    return run, processor, learned

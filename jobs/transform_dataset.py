"""Move a folder of photos from one class towards another on Ray: ``python jobs/transform_dataset.py --help``.

The same as ``dmt-ray transform``. Works on one machine, and on a cluster through ``ray job submit``.
"""

from dmt_ray.process_exit import run_program

if __name__ == "__main__":
    run_program("dmt_ray.cli:job_main", "transform")

"""Colorize a folder of black-and-white photos on Ray: ``python jobs/colorize_dataset.py --help``.

The same as ``dmt-ray colorize``. Works on one machine, and on a cluster through ``ray job submit``.
"""

from dmt_ray.process_exit import run_program

if __name__ == "__main__":
    run_program("dmt_ray.cli:job_main", "colorize")

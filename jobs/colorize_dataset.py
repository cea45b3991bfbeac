"""Colorize a folder of black-and-white photos on Ray: ``python jobs/colorize_dataset.py --help``.

The same as ``dmt-ray colorize``. Works on one machine, and on a cluster through ``ray job submit``.
"""

from dmt_ray.cli import colorize_main
from dmt_ray.process_exit import exit_process

if __name__ == "__main__":
    exit_process(colorize_main())

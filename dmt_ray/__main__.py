"""``dmt-ray`` and ``python -m dmt_ray``: handle signals first, and import everything else after that."""

from typing import NoReturn

from dmt_ray.process_exit import run_program


def run() -> NoReturn:
    """Run the ``dmt-ray`` command and exit with its code."""
    run_program("dmt_ray.cli:main")


if __name__ == "__main__":
    run()

"""An output that another run, with other settings, takes over while a run works on it."""

import signal
import subprocess

import pytest

from chaos.conftest import PATIENCE, attached, command_line, rows_of, until
from dmt_ray.output.verify import verify_output

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.chaos, pytest.mark.timeout(2 * PATIENCE)]


def test_a_run_does_not_vouch_for_the_rows_of_another(options, hooks, start, tmp_path):
    """The first run is held in a write and told to stop, and the second overwrites meanwhile."""
    out = tmp_path / "out"
    (hooks / "hold-on-write").touch()
    first = start(
        command_line(options, out, "--grace", 2 * PATIENCE),
        env=attached(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: list(hooks.glob("holding-*")), "the first run to write")
    overwriting = command_line({**options, "iterations": 3}, out, "--mode", "overwrite")
    assert subprocess.run(overwriting, env={**attached(), "RAY_ADDRESS": "local"}, timeout=PATIENCE).returncode == 0
    first.send_signal(signal.SIGTERM)
    (hooks / "release").touch()
    output, said = (text.decode() for text in first.communicate(timeout=PATIENCE))
    assert first.returncode == 2, output + said
    assert "another run has taken this output over while this one worked" in said
    assert "rows:" not in output
    assert "Traceback" not in said
    assert verify_output(str(out)).planned == 10
    assert len(rows_of(out)) >= 10

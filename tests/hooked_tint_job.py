"""The job of ``tint_job``, in whose reconstruction tests can let processes be slow, sleep, or be stopped.

In the folder of hooks, ``stop-in-stage`` makes the next process that begins to reconstruct send itself SIGSTOP, and
``sleep-in-stage`` makes it sleep for an hour; ``slow-process`` makes it take a minute for each shard from then on.
``stage-seconds`` says how long every shard takes; who begins one leaves ``in-stage-PID``. ``kill-in-stage`` kills
every process that begins one, as long as it is there.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tint_job import Tint, TintConfig, TintEditor

from dmt_ray.jobs.registry import JOBS

_slow = False


@dataclass(frozen=True, kw_only=True)
class HookedConfig(TintConfig):
    """Give photos the mean colour of other photos, with accidents."""

    job: ClassVar[str] = "hooked-tint"


class HookedTint(Tint):
    """Moves the mean colour of each input towards that of the exemplars."""

    config = HookedConfig

    def editor(self, arrays, exemplars, config, device, measures):
        """Return what shifts colours."""
        return HookedEditor(exemplars["mean"], config)


class HookedEditor(TintEditor):
    """Looks for hooks before it reconstructs."""

    def reconstruct(self, pictures, displacements, masks):
        """Return the shifted pictures."""
        global _slow
        hooks = Path(os.environ["DMT_RAY_TEST_HOOKS"])
        if (hooks / "kill-in-stage").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if _taken(hooks / "stop-in-stage"):
            os.kill(os.getpid(), signal.SIGSTOP)
        if _taken(hooks / "sleep-in-stage"):
            time.sleep(3600)
        _slow = _slow or _taken(hooks / "slow-process")
        seconds = hooks / "stage-seconds"
        if seconds.exists():
            (hooks / f"in-stage-{os.getpid()}").touch()
        time.sleep(60 if _slow else float(seconds.read_text()) if seconds.exists() else 0)
        return super().reconstruct(pictures, displacements, masks)


def _taken(hook):
    try:
        hook.unlink()
    except OSError:
        return False
    return True


JOBS["hooked-tint"] = HookedTint()

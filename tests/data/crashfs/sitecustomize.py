"""Lets tests interrupt the writing of a shard at its worst moment: written under its hidden name, not yet renamed.

In the folder of hooks, ``kill-on-write`` makes the next such process end by SIGKILL with half of its file written;
``hold-on-write`` makes it wait until there is a file ``release``.
"""

import os

if "DMT_RAY_TEST_HOOKS" in os.environ:
    import signal
    import time
    from pathlib import Path

    _hooks = Path(os.environ["DMT_RAY_TEST_HOOKS"])
    _fsync = os.fsync

    def _taken(name):
        try:
            (_hooks / name).unlink()
        except OSError:
            return False
        return True

    def fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name.startswith(".tmp-") and path.parent.name == "shards":
            if _taken("kill-on-write"):
                os.truncate(path, path.stat().st_size // 2)
                (_hooks / f"killed-{os.getpid()}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if _taken("hold-on-write"):
                (_hooks / f"holding-{os.getpid()}").touch()
                while not (_hooks / "release").exists():
                    time.sleep(0.05)
        _fsync(descriptor)

    os.fsync = fsync

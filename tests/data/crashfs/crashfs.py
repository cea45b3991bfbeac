"""An fsspec driver whose files (``crash://NAME``) end the process that reads them, as a broken decoder would.

``segv...`` by a real segmentation fault; ``hang...`` not at all: it sleeps in native code and never gives the
interpreter back; ``gate/PATH`` is the local file of that path, but who reads it when the folder of hooks has a file
``hold-on-read`` waits, once, until it is killed (``hold-on-worker-read``: only a worker of Ray's does);
``driver/PATH`` is the local file of that path, but workers of Ray's do not find it; ``deadly/PATH`` too, and it ends
those workers by SIGKILL; ``slow...`` keeps who looks for it waiting; any other by SIGKILL.
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from fsspec import AbstractFileSystem


class CrashFileSystem(AbstractFileSystem):
    protocol = "crash"

    def info(self, path, **kwargs):
        name = self._strip_protocol(path)
        if name.startswith("slow"):
            (Path(os.environ["DMT_RAY_TEST_HOOKS"]) / f"looking-{os.getpid()}").touch()
            time.sleep(3600)
        kind, _, path = name.partition("/")
        if kind == "driver" and works():
            raise FileNotFoundError(name)
        size = Path("/" + path).stat().st_size if kind in ("gate", "driver", "deadly") else 1
        return {"name": name, "type": "file", "size": size}

    def cat_file(self, path, start=None, end=None, **kwargs):
        name = self._strip_protocol(path)
        if name.startswith("gate/"):
            hooks = Path(os.environ["DMT_RAY_TEST_HOOKS"])
            if taken(hooks / "hold-on-read") or (works() and taken(hooks / "hold-on-worker-read")):
                (hooks / f"reading-{os.getpid()}").touch()
                time.sleep(3600)
            return Path(name.removeprefix("gate")).read_bytes()[start:end]
        kind, _, local = name.partition("/")
        if kind in ("driver", "deadly") and not works():
            return Path("/" + local).read_bytes()[start:end]
        if name.startswith("segv"):
            ctypes.string_at(0)
        if name.startswith("hang"):
            ctypes.PyDLL(None).sleep(3600)
        return os.kill(os.getpid(), signal.SIGKILL)


def works():
    """Tell whether this process is a worker of Ray's."""
    return "default_worker" in sys.argv[0]


def taken(hook):
    """Use a hook up; only one process can."""
    try:
        hook.unlink()
    except OSError:
        return False
    return True

"""The end of a process, with the exit code that its work has earned."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from typing import NoReturn


def exit_process(code: int) -> NoReturn:
    """End this process: run what is registered for its exit, flush what it said, and take nothing else apart.

    The interpreter's own way out ends threads that still want the interpreter's lock by force. Threads of native
    libraries do not survive that, and the process with them: it aborts, after all its work, with a code of its own
    (https://github.com/apache/arrow/issues/34314). A scheduler would take a finished job for a failed one.

    Parameters:
        code: what the parent process gets.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, none
            stream.flush()
    os._exit(code)

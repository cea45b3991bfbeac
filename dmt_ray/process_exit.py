"""Start a program so that a signal ends it with a sentence, and exit with a code, skipping interpreter teardown."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import select
import signal
import sys
from types import FrameType
from typing import NoReturn

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
#: What stderr says of a process that ends with EXIT_INTERRUPTED.
INTERRUPTED = "Interrupted: run the same command again to do what is missing."
SIGNALS = (signal.SIGINT, signal.SIGTERM)

_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"


def run_program(entry: str, *arguments: str) -> NoReturn:
    """Import a function, call it, and exit with the code that it returns.

    The signals are handled before the import, which takes seconds: see ``handle_signals``.

    Parameters:
        entry: ``module:function``.
        arguments: of the function.
    """
    handle_signals()
    forget_current_folder()
    module, _, function = entry.partition(":")
    exit_process(getattr(importlib.import_module(module), function)(*arguments))


def forget_current_folder() -> None:
    """Import nothing from the current folder, which ``python -m`` searches first: it may be a folder of photos.

    Unless this program itself lies there.
    """
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120
    with contextlib.suppress(OSError):  # a folder that is gone
        here = os.getcwd()  # noqa: PTH109
        if sys.path and sys.path[0] in ("", here) and here != own:
            del sys.path[0]


def stdout_is_broken() -> bool:
    """Tell whether what reads stdout has closed it, as ``head`` does."""
    try:
        watch = select.poll()
        watch.register(sys.stdout.fileno(), 0)  # errors are told of without asking
        return bool(watch.poll(0))
    except (OSError, ValueError, AttributeError):  # a stream that is no file, a system without poll
        return False


def close_broken_stdout() -> int:
    """Let nothing more be said of a closed pipe behind stdout, and return the exit code of one that SIGPIPE ends."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_BROKEN_PIPE


def handle_signals() -> None:
    """Let SIGINT and SIGTERM interrupt this process, as long as nothing else handles them.

    During an import the process exits at once: nothing is half done, and native initialisation code may swallow an
    exception. Otherwise the signal raises KeyboardInterrupt, so that files and Ray are cleaned up. A second signal
    exits at once.
    """
    for number in SIGNALS:
        signal.signal(number, _interrupt)


def exit_process(code: int) -> NoReturn:
    """Run the registered exit functions, flush stdout and stderr, and exit with ``code``.

    This skips the rest of the interpreter's teardown: it kills threads of native libraries that wait for the
    interpreter's lock, and such a thread can abort the process, which then ends with another exit code
    (https://github.com/apache/arrow/issues/34314).

    Parameters:
        code: the exit code.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a closed pipe, a closed stream, none
            stream.flush()
    os._exit(code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    for other in SIGNALS:
        signal.signal(other, _exit_interrupted)
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_SYSTEM:
            _exit_interrupted(number, frame)
        frame = frame.f_back
    raise KeyboardInterrupt


def _exit_interrupted(number: int, frame: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"{INTERRUPTED}\n".encode())  # sys.stderr may be in use by the code that was interrupted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # an exit function of a half imported module may fail
    exit_process(EXIT_INTERRUPTED)

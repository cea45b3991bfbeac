"""An fsspec driver whose files (``crash://NAME``) kill the process that reads them, as a broken decoder would."""

import os
import signal

from fsspec import AbstractFileSystem


class CrashFileSystem(AbstractFileSystem):
    protocol = "crash"

    def cat_file(self, path, start=None, end=None, **kwargs):
        os.kill(os.getpid(), signal.SIGKILL)

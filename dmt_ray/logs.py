"""Log lines and printed lines that are what they seem: one line each, without control characters and secrets."""

from __future__ import annotations

import logging
import re

from dmt_ray.masking import masked

#: Control characters, what changes the direction of writing or ends a line, and what is no character at all.
_UNSEEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_INDENT = "    "


def one_plain_line(text: str) -> str:
    r"""Return a text as one line, with newlines and other control characters written out, as in ``\n``."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def printable(text: object) -> str:
    """Return what a line for a terminal may say: as ``one_plain_line``, with secrets masked."""
    return one_plain_line(masked(str(text)))


class PlainFormatter(logging.Formatter):
    """Formats a record as one line, whatever its message holds; lines of a traceback follow indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        record.message = printable(record.getMessage())
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [self.formatMessage(record)]
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        elif record.exc_text:
            lines += record.exc_text.split("\n")
        if record.stack_info:
            lines += record.stack_info.split("\n")
        return "\n".join([lines[0], *(_INDENT + printable(line) for line in lines[1:])])


def set_up_logging(level: int, line: str, time: str | None = None) -> None:
    """Let this process log to stderr, unless it does so already.

    Parameters:
        level: from which on.
        line: the line's form, as for ``logging.Formatter``.
        time: the form of its time.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(PlainFormatter(line, time))
    logging.basicConfig(level=level, handlers=[handler])

"""Log lines are one line each, whatever the names and messages in them hold."""

from __future__ import annotations

import logging

import pytest

from dmt_ray.logs import PlainFormatter, one_plain_line, printable


def line(message: str, *arguments: object, error: Exception | None = None) -> str:
    info = None if error is None else (type(error), error, error.__traceback__)
    record = logging.LogRecord("x", logging.INFO, "f.py", 1, message, arguments, info)
    return PlainFormatter("%(levelname)s %(message)s").format(record)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n12:00:00 INFO 999 ok", r"a\n12:00:00 INFO 999 ok"),
        ("a\r\x1b[1A\x1b[2Kb", r"a\r\x1b[1A\x1b[2Kb"),
        ("\x9b2K \u202egnp.exe \u2028 \udcff", r"\x9b2K \u202egnp.exe \u2028 \udcff"),
        ("caf\xe9 \u6771\u4eac \U0001f4f7 \\n", "caf\xe9 \u6771\u4eac \U0001f4f7 \\n"),
    ],
)
def test_what_cannot_be_seen_is_written_out(text, shown):
    assert one_plain_line(text) == shown
    assert line("%s is damaged", text) == f"INFO {shown} is damaged"


def test_lines_of_a_traceback_are_indented_so_that_none_looks_like_a_record():
    try:
        raise ValueError("x\n12:00:00 INFO 999 ok\x1b[2K\n\rend")
    except ValueError as error:
        lines = line("It failed.", error=error).split("\n")
    assert lines[0] == "INFO It failed."
    assert all(each.startswith("    ") for each in lines[1:])
    assert not any(sign in each for each in lines for sign in "\x1b\r")


def test_secrets_are_masked_in_every_line():
    secret = "https://user:hunter2@host/a?token=hunter2"
    assert "hunter2" not in line("cannot read %s", secret) + printable(secret)

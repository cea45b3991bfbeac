"""Counts with their nouns in messages, and no message that takes a noun for plural whatever the count is."""

import ast
import re
from pathlib import Path

import pytest

from dmt_ray.words import agreed, counted

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0, "shard"), "0 shards"),
        ((1, "shard"), "1 shard"),
        ((2, "shard"), "2 shards"),
        ((1, "member of archives", "members of archives"), "1 member of archives"),
        ((3, "member of archives", "members of archives"), "3 members of archives"),
        ((1234567, "photo", "", ","), "1,234,567 photos"),
        ((1, "photo", "", ","), "1 photo"),
        # What is read decides, and not what was rounded away.
        ((1.0, "GPU", "", "g"), "1 GPU"),
        ((0.5, "GPU", "", "g"), "0.5 GPUs"),
        ((0.99996, "row", "", ".3g"), "1 row"),
        ((1.25, "row", "", ".3g"), "1.25 rows"),
    ],
)
def test_a_noun_goes_with_its_count(arguments, text):
    assert counted(*arguments) == text


def test_a_verb_goes_with_its_count():
    said = [f"{counted(count, 'image')} {agreed(count, 'was', 'were')} left out" for count in range(3)]
    assert said == ["0 images were left out", "1 image was left out", "2 images were left out"]


NOUNS = "image|photo|picture|row|shard|file|error|reference|exemplar|actor|node|part|step|sample|chunk|thread"
ADJECTIVES = "(damaged|error|more|new|other)"
PLURAL = re.compile(rf" ({ADJECTIVES} )?({NOUNS})s\b(?!/)")
LOGGED = re.compile(rf"%[dg] ({ADJECTIVES} )?({NOUNS})s\b")


def _pieces(node: ast.AST):
    """Yield the nodes below one, but for what ``agreed`` chooses from."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.Call) and ast.unparse(child.func) == "agreed"):
            yield child
            yield from _pieces(child)


def _always_plural(source: str) -> list[str]:
    """Return the texts that put a plural noun after a number, whatever the number is."""
    found = []
    for node in _pieces(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LOGGED.search(node.value):
            found.append(node.value)
        for value, text in zip(node.values, node.values[1:], strict=False) if isinstance(node, ast.JoinedStr) else ():
            if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                number = ast.unparse(value.value)
                if (
                    PLURAL.match(text.value)
                    and not number.isupper()
                    and "agreed(" not in number
                    and "kind" not in number
                ):
                    found.append(f"{number}{text.value}")
    return found


@pytest.mark.parametrize("text", ['f"{len(a)} rows"', 'f"{sum(b):,} error rows are"', 'log("%d of %d files", 1, 2)'])
def test_a_noun_that_is_always_plural_is_found(text):
    assert len(_always_plural(f"x = {text}")) == 1


@pytest.mark.parametrize("folder", ["dmt_ray", "jobs", "demo"])
def test_no_message_takes_a_noun_for_plural_whatever_its_count_is(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert {
        str(path.relative_to(ROOT)): said for path in paths if (said := _always_plural(path.read_text("utf-8")))
    } == {}

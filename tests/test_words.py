"""Counts with their nouns in messages, and no message that takes a noun for plural whatever the count is."""

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

"""Two answers agree, or they do not."""

import pytest

from app.cache.agreement import answers_agree


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Paris.", " paris. ", True),
        ("The capital of France is Paris.", "France's capital is Paris", True),
        ("It costs 30 dollars.", "It costs 40 dollars.", False),
        ("It costs 30 dollars.", "It costs dollars.", False),
        ("Yes, it is safe.", "No, it is not safe.", False),
        ("The capital is Paris.", "The capital is Lyon.", False),
        ("", "", True),
        ("", "Paris", False),
    ],
)
def test_answers_agree_when_they_say_the_same(a: str, b: str, same: bool):
    assert answers_agree(a, b) is same
    assert answers_agree(b, a) is same

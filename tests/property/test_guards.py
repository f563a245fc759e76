"""Guards over any two texts: total, symmetric, and silent about a text and itself."""

from hypothesis import given
from hypothesis import strategies as st

from app.cache.guards import compare
from app.cache.pair_features import FEATURES, pair_features
from app.cache.text_view import analyse
from app.cache.token_weights import DIMENSIONS, hashed_features

VOCABULARY = (
    "is was Ann Bob Oslo not never more less before after by from to sold or and he she her 3 7 30% "
    "D-77 monday km than who why the a cheap flight useful useless used , . ? ü 你好"
)
words = st.sampled_from(VOCABULARY.split())
texts = st.one_of(st.lists(words, max_size=14).map(" ".join), st.text(max_size=60))


@given(texts, texts)
def test_vetoes_do_not_depend_on_the_order_of_the_two_texts(a: str, b: str):
    left = {d.kind for d in compare(analyse(a), analyse(b)).vetoes}
    right = {d.kind for d in compare(analyse(b), analyse(a)).vetoes}
    assert left == right


@given(texts)
def test_a_text_does_not_differ_from_itself(a: str):
    seen = compare(analyse(a), analyse(a))
    assert seen.found == ()
    assert seen.polarity == 0


@given(texts, st.integers(0, 999), st.integers(0, 999))
def test_two_different_numbers_always_forbid_a_hit(a: str, x: int, y: int):
    if x != y and not analyse(a).numbers:
        assert compare(analyse(f"{a} {x}"), analyse(f"{a} {y}")).vetoes


@given(texts, texts)
def test_features_are_finite_named_and_symmetric(a: str, b: str):
    def rarity(word: str) -> float:
        return float(len(word))

    left = pair_features(analyse(a), analyse(b), 0.5, rarity)
    right = pair_features(analyse(b), analyse(a), 0.5, rarity)
    assert len(left) == len(FEATURES)
    assert all(abs(v) < 1e6 for v in left)
    close = [abs(x - y) < 1e-9 for x, y in zip(left, right, strict=True)]
    different = [name for name, same in zip(FEATURES, close, strict=True) if not same]
    assert set(different) <= {"order_agreement", "unmatched_spelling"}


@given(texts, texts)
def test_symbols_are_hashed_within_their_table_and_symmetric(a: str, b: str):
    left, right = hashed_features(analyse(a), analyse(b)), hashed_features(analyse(b), analyse(a))
    assert sorted(left) == sorted(right)
    assert left
    assert all(0 <= s < DIMENSIONS for s in left)

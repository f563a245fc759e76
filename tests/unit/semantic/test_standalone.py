"""Which last turns can be understood without the others."""

from __future__ import annotations

import pytest

from app.cache.standalone import is_standalone


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital city of France?",
        "Explain how photosynthesis works in plants.",
        "How many litres are in a gallon?",
        "Translate 'good morning' into Japanese.",
        "Why is the sky blue at noon?",
    ],
)
def test_a_whole_question_stands_alone(text):
    assert is_standalone(text)


@pytest.mark.parametrize(
    "text",
    [
        "continue", "yes", "Yes, please do that now.", "go on", "", "   ", "why?", "And in winter?",
        "It does not work on my machine, why?", "What about the second option then?",
        "Can you explain it in more detail?", "Where was he born, exactly?", "Summarize this in German.",
        "The second one looks better, use that.", "Is that true for all mammals?",
        "As you said above, which is faster?", "Rewrite it as a haiku please.", "Thanks, that was useful.",
        "Which of these is the cheapest here?", "How do they reproduce in cold water?",
    ],
)  # fmt: skip
def test_a_turn_that_leans_on_another_does_not(text):
    assert not is_standalone(text)

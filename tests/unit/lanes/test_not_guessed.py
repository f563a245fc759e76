"""What reads almost like a lane's question: a lane that cannot be sure lets a model answer."""

from __future__ import annotations

import pytest

from app.lanes.builtin import built_in_rules
from app.lanes.rules import Lanes

LANES = Lanes(built_in_rules())


def answer(text: str) -> str | None:
    found = LANES.match(text)
    return None if found is None else found.text


@pytest.mark.parametrize(
    "text",
    [
        "(555)-123-4567",
        "+44-20-7946-1958",
        "+1-(800)-555-1199",
        "What is (555)-123-4567?",
        "2024-10-12 + 30",
        "What is 2024-10-12 + 30?",
        "calculate 2024-10-12",
        "10/12/2024 + 5",
        "12-10-2024 + 5",
    ],
)
def test_a_telephone_number_or_a_date_is_no_sum(text: str):
    assert answer(text) is None


@pytest.mark.parametrize("text", ["3*5!", "calculate 10 - 3!", "What is 2 + 3!", "5!"])
def test_a_factorial_is_not_read_as_the_end_of_a_sentence(text: str):
    assert answer(text) is None


@pytest.mark.parametrize("text", ["0x10 + 1", "what is 0x1 * 2", "0^0", "what is 0 ** 0?"])
def test_what_mathematicians_or_programmers_read_otherwise_is_declined(text: str):
    assert answer(text) is None


@pytest.mark.parametrize("text", ["1.234 + 1", "12.500 * 2 =", "1.234 km in m", "1.500 kg in g"])
def test_a_point_that_may_part_thousands_is_not_guessed_at_outside_an_english_sentence(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is 1.234 + 1?", "1.234 + 1 = 2.234"),
        ("0.125 * 8", "0.125 * 8 = 1"),
        ("1.25 * 8", "1.25 * 8 = 10"),
        ("convert 1.234 km to m", "1.234 km = 1234 m"),
        ("0.125 km in m", "0.125 km = 125 m"),
        ("12 - 10", None),
        ("What is 12 - 10?", "12 - 10 = 2"),
        ("100/10/2000 =", "100/10/2000 = 0.005"),
        ("(2+3)*4", "(2+3)*4 = 20"),
    ],
)
def test_a_plain_sum_or_conversion_is_answered_as_before(text: str, expected: str | None):
    assert answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "convert 5 ML to L",  # megalitres
        "5 Mg to kg",
        "10 mM to M",
        "5 Mm in km",
        "5 Ms in s",
        "100 Mb to KB",  # bits
        "8 Kb to bytes",
        "1 kb in bytes",
        "2 Gb in MB",
        "8 Mib to KiB",
        "how many Mb in 1 GB?",
    ],
)
def test_a_symbol_that_means_something_else_as_it_is_written_is_declined(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("500 mb in gb", "500 MB = 0.5 GB"),
        ("500 MB in GB", "500 MB = 0.5 GB"),
        ("5 KG to G", "5 kg = 5000 g"),
        ("5 mL to L", "5 mL = 0.005 L"),
        ("5 Miles to km", "5 mi = 8.04672 km"),
        ("2 kB in bytes", "2 kB = 2000 bytes"),
    ],
)
def test_a_symbol_with_one_meaning_is_read_in_any_case(text: str, expected: str):
    assert answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "check email please",
        "check email now",
        "validate email addresses",
        "check the e-mail again",
        "check email: inbox",
        "Is it a valid email?",
        "is this a valid email address",
        "is there a valid email?",
        "is yours a correct e-mail address?",
        "Is it a valid UUID?",
        "is this a valid guid",
        "is bad a valid IP?",
        "is dead a valid IP address?",
    ],
)
def test_a_word_is_not_taken_for_a_faulty_address(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "is user@[192.168.1.1] a valid email?",  # an address literal of RFC 5321
        'is "john"@example.com a valid email?',  # a quoted local part
        "validate email: <bob@example.org>",
        "validate email: mailto:bob@example.org",
        "is bob@example.com,alice@example.com a valid email?",
        "is {123e4567-e89b-12d3-a456-426614174000} a valid guid?",
        "is urn:uuid:123e4567-e89b-12d3-a456-426614174000 a valid uuid?",
        "is 123e4567e89b12d3a456426614174000 a valid uuid?",
        "is 127.1 a valid ip?",  # to inet_aton it is
        "is 010.0.0.1 a valid ip?",
    ],
)
def test_a_form_that_some_standard_allows_is_not_called_invalid(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "is 10.0.0.1 a valid IPv6 address?",
            "No, 10.0.0.1 is not a valid IPv6 address: it is an IPv4 address.",
        ),
        (
            "is ::1 a valid ipv4?",
            "No, ::1 is not a valid IPv4 address: it is an IPv6 address.",
        ),
        ("is 10.0.0.1 a valid IPv4 address?", "Yes, 10.0.0.1 is a valid IPv4 address."),
        ("is 1.2.3.4.5 a valid ipv4?", "No, 1.2.3.4.5 is not a valid IPv4 address."),
        ("is ::1 a valid IP?", "Yes, ::1 is a valid IPv6 address."),
    ],
)
def test_the_version_that_was_asked_for_is_the_one_that_is_judged(text: str, expected: str):
    assert answer(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "What day of the week was 14 October 1066?",  # a Saturday by the calendar of its time
        "what day was 4 October 1582?",
        "how many days between 1066-10-14 and 2024-01-01?",
        "30 days after 1752-08-31",
        "30 days before 1752-10-01",
    ],
)
def test_a_day_before_the_calendar_was_reformed_is_declined(text: str):
    assert answer(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What day was July 4, 1776?", "1776-07-04 is a Thursday."),
        ("Is 1700 a leap year?", "No, 1700 is not a leap year in the Gregorian calendar."),
        ("is 1600 a leap year", "Yes, 1600 is a leap year in the Gregorian calendar."),
        ("Is 1900 a leap year?", "No, 1900 is not a leap year."),
    ],
)
def test_a_later_day_is_told_and_an_early_leap_year_names_its_calendar(text: str, expected: str):
    assert answer(text) == expected

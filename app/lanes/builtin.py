"""The lane rules that every gateway ships with, beside an operator's own."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace

from app.lanes.arithmetic import ARITHMETIC_RULES
from app.lanes.dates import DATE_RULES
from app.lanes.rules import Case, Groups, Rule
from app.lanes.units import UNIT_RULES

_MAX_EMAIL_CHARS = 254  # RFC 5321 4.5.3.1.3, less the angle brackets
_MAX_LOCAL_CHARS = 64
_MAX_LABEL_CHARS = 63
_MAX_BYTE = 255
_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")
# An RFC's quotes and literals, an address in brackets or a link, several of them.
_OTHER_ADDRESS = re.compile(r"[\"<>\[\],;]|^mailto:", re.IGNORECASE)
_OTHER_UUID = re.compile(r"[0-9a-f]{32}|\{.*\}|urn:.*", re.IGNORECASE)
_LOOSE_IP = re.compile(r"\d{1,3}(?:\.\d{1,3}){0,3}")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")


def email_fault(address: str) -> str | None:
    """Say what is wrong with the form of an address (RFC 5321/5322 dot-atom), or None when right."""
    if len(address) > _MAX_EMAIL_CHARS:
        return f"it is longer than {_MAX_EMAIL_CHARS} characters"
    if address.count("@") != 1:
        return "it has no @" if "@" not in address else "it has more than one @"
    local, domain = address.split("@")
    return _local_fault(local) or _domain_fault(domain)


def _local_fault(local: str) -> str | None:
    if not local:
        return "nothing stands before the @"
    if len(local) > _MAX_LOCAL_CHARS:
        return f"the part before the @ is longer than {_MAX_LOCAL_CHARS} characters"
    atoms = local.split(".")
    if not all(atoms):
        return "a dot stands at an end of the part before the @, or two stand together"
    if not all(_ATOM.fullmatch(atom) for atom in atoms):
        return "the part before the @ has a character that is not allowed"
    return None


def _domain_fault(domain: str) -> str | None:
    labels = domain.split(".")
    if not domain:
        return "nothing stands after the @"
    if len(labels) == 1:
        return "the domain has no dot"
    if not all(label and len(label) <= _MAX_LABEL_CHARS for label in labels):
        return "a part of the domain is empty or too long"
    if not all(_LABEL.fullmatch(label) for label in labels):
        return "the domain has a character that is not allowed there"
    if labels[-1].isdigit():
        return "the top-level domain is a number"
    return None


def _email(groups: Groups) -> str | None:
    address = groups["address"]
    if _is_no_address(address):
        return None
    fault = email_fault(address)
    if fault is None:
        return f"Yes, {address} has the form of a valid e-mail address."
    return f"No, {address} is not a valid e-mail address: {fault}."


def _is_no_address(text: str) -> bool:
    """A word ("is it a valid email?"), several addresses, or a form that only part of the world takes."""
    plain_word = "@" not in text and "." not in text
    return plain_word or _OTHER_ADDRESS.search(text) is not None


def _uuid(groups: Groups) -> str | None:
    text = groups["text"]
    if not any(letter.isdigit() for letter in text) or _OTHER_UUID.fullmatch(text):
        return None
    good = re.fullmatch(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}", text)
    return f"Yes, {text} is a valid UUID." if good else f"No, {text} is not a valid UUID."


def _some_program_takes(text: str) -> bool:
    """Whether "127.1" or "010.0.0.1", which `ping` takes for addresses and others do not."""
    loose = _LOOSE_IP.fullmatch(text) is not None
    return loose and all(int(part) <= _MAX_BYTE for part in text.split("."))


def _ip(groups: Groups) -> str | None:
    text, asked = groups["text"], groups.get("version", "")
    try:
        version = ipaddress.ip_address(text).version
    except ValueError:
        if not ("." in text or ":" in text) or _some_program_takes(text):
            return None
        return f"No, {text} is not a valid IP{asked.lower()} address."
    if asked and int(asked[-1]) != version:
        return (
            f"No, {text} is not a valid IP{asked.lower()} address: it is an IPv{version} address."
        )
    return f"Yes, {text} is a valid IPv{version} address."


def _greet(_: Groups) -> str:
    return "Hello! How can I help you?"


def _welcome(_: Groups) -> str:
    return "You're welcome!"


_EMAIL_WORDS = r"(?:e-?mail(?:\s+address)?)"
_QUOTE = "[\"'`“”‘’]?"
# A bare sentence dot after the address is the sentence's; an address may not end in one.
_ADDRESS = r"(?P<address>[!-~]*[!-\-/->@-_a-~])"

_CHECKS = (
    Rule(
        "email_validation",
        rf"(?:is\s+{_QUOTE}{_ADDRESS}{_QUOTE}\s+(?:a\s+)?(?:valid|correct|well-formed)\s+{_EMAIL_WORDS}"
        r"|is\s+(?:this|the\s+following)\s+(?:a\s+)?valid\s+e-?mail(?:\s+address)?\s*:\s*"
        rf"{_ADDRESS.replace('address', 'address2')}"
        rf"|(?:validate|check)\s+(?:the\s+|this\s+)?{_EMAIL_WORDS}\s*:?\s+{_QUOTE}"
        rf"{_ADDRESS.replace('address', 'address3')}{_QUOTE})\s*[?.]?",
        lambda groups: _email({"address": next(iter(groups.values()))}),
        (
            Case(
                "Is a@b.c a valid email?",
                "Yes, a@b.c has the form of a valid e-mail address.",
            ),
            Case(
                "is alice.example.com a valid e-mail address?",
                "No, alice.example.com is not a valid e-mail address: it has no @.",
            ),
            Case(
                "validate email: bob@example.org",
                "Yes, bob@example.org has the form of a valid e-mail address.",
            ),
            Case("Is my colleague's address a valid email?", None),
            Case("Is it a valid email?", None),
        ),
    ),
    Rule(
        "uuid_validation",
        rf"is\s+{_QUOTE}(?P<text>[!-~]+?){_QUOTE}\s+a\s+valid\s+[ug]uid\s*\??",
        _uuid,
        (
            Case(
                "is 123e4567-e89b-12d3-a456-426614174000 a valid UUID?",
                "Yes, 123e4567-e89b-12d3-a456-426614174000 is a valid UUID.",
            ),
            Case("is 123 a valid uuid", "No, 123 is not a valid UUID."),
        ),
    ),
    Rule(
        "ip_validation",
        rf"is\s+{_QUOTE}(?P<text>[0-9a-f:.]{{2,45}}){_QUOTE}\s+a\s+valid\s+ip(?P<version>v[46])?(?:\s+address)?\s*\??",
        _ip,
        (
            Case("is 10.0.0.1 a valid IP address?", "Yes, 10.0.0.1 is a valid IPv4 address."),
            Case("is 10.0.0.256 a valid ip", "No, 10.0.0.256 is not a valid IP address."),
        ),
    ),
)

_TALK = (
    Rule(
        "greeting",
        r"(?:hi|hello|hey|howdy|greetings|good\s+(?:morning|afternoon|evening))(?:\s+there)?\s*[!.]*",
        _greet,
        (
            Case("Hello!", "Hello! How can I help you?"),
            Case("good morning", "Hello! How can I help you?"),
            Case("Hello world program in C", None),
        ),
    ),
    Rule(
        "thanks",
        r"(?:ok(?:ay)?,?\s+|great,?\s+)?(?:thanks|thank\s+you|thx|many\s+thanks)"
        r"(?:\s+(?:a\s+lot|so\s+much|very\s+much|again))?\s*[!.]*",
        _welcome,
        (
            Case("Thank you very much!", "You're welcome!"),
            Case("thanks, but that is wrong", None),
        ),
    ),
)


def built_in_rules() -> tuple[Rule, ...]:
    """All shipped rules, in the order in which they are tried."""
    rules = (*_CHECKS, *ARITHMETIC_RULES, *UNIT_RULES, *DATE_RULES, *_TALK)
    return tuple(replace(rule, shipped=True) for rule in rules)

"""Lane rules: requests whose whole answer follows from an exact grammar, with no model at all.

A lane answers in microseconds, so it must never guess. A similarity classifier at a threshold of
0.95 took 27 % of out-of-scope questions for its own; hence a rule is an anchored full match of
the whole request, its handler may still decline (`None`), and each rule carries test cases that
are run when the rules are loaded. A rule that fails its own case stops the start with a clear
message.

Matching is RE2 (linear time in the text, whatever the pattern), all rules in one automaton pass.
There is no fall-back to Python's `re`: an operator's pattern must not be able to stall the
gateway.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import re2

MAX_TEXT_CHARS = 1_000
"""A longer request is no lane question; it is declined unread."""
MAX_PATTERN_CHARS = 2_000
MAX_RULES = 1_000
_MAX_AUTOMATON_BYTES = 32 << 20

Groups = Mapping[str, str]
Handler = Callable[[Groups], str | None]


class LaneRuleError(ValueError):
    """A rule cannot be loaded; the message names the rule, what is wrong and what to do."""


@dataclass(frozen=True, slots=True)
class LaneAnswer:
    """The name of the rule that answered, and the whole answer."""

    rule: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A promise of a rule: `text` is answered with `answer`, or declined when that is None."""

    text: str
    answer: str | None


@dataclass(frozen=True, slots=True)
class Rule:
    """An RE2 `pattern` for the whole stripped text, and what answers when it matches.

    `answer` gets the named groups that took part in the match; it must be pure and quick, and
    returns None to decline.
    """

    name: str
    pattern: str
    answer: Handler
    cases: tuple[Case, ...]
    ignore_case: bool = True
    shipped: bool = False
    """One of our own patterns: once RE2 has matched it, `re` reads its groups, ten times faster."""


class Match(Protocol):
    """What RE2 returns, as far as lanes read it."""

    def groupdict(self) -> Mapping[str, str | None]:
        """The named groups; None where one took no part."""
        ...


class Pattern(Protocol):
    """A compiled expression of RE2 or, for shipped rules, of `re`."""

    @property
    def groupindex(self) -> Mapping[str, int]:
        """The numbers of the named groups."""
        ...

    def fullmatch(self, text: str, /) -> Match | None:
        """Match the whole text."""
        ...


class Lanes:
    """The loaded rules, tried in their order: the first that matches and does not decline
    answers.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        """Compile `rules` and run their cases. Raises LaneRuleError naming the first faulty rule."""
        if len(rules) > MAX_RULES:
            raise LaneRuleError(f"lanes: {len(rules)} rules; at most {MAX_RULES} are allowed")
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise LaneRuleError(f"lanes: two rules are named {name!r}; rename one")
        self._rules = tuple(rules)
        self._patterns = tuple(map(_group_reader, rules))
        self._all = _compile_pattern_set(tuple(map(_scoped, rules))) if rules else None
        for rule, pattern in zip(self._rules, self._patterns, strict=True):
            _check(rule, pattern)

    def match(self, text: str) -> LaneAnswer | None:
        """Answer `text`, the whole user turn, or None when no rule does. Never raises; about 10
        us.
        """
        if self._all is None or len(text) > MAX_TEXT_CHARS:
            return None
        text = text.strip()
        try:
            hits = self._all(text)
        except UnicodeEncodeError:  # lone surrogates: not text that any rule speaks of
            return None
        for at in hits or ():
            answer = _answer(self._rules[at], self._patterns[at], text)
            if answer is not None:
                return LaneAnswer(self._rules[at].name, answer)
        return None


def _answer(rule: Rule, pattern: Pattern, text: str) -> str | None:
    found = pattern.fullmatch(text)
    if found is None:
        return None
    return rule.answer({name: part for name, part in found.groupdict().items() if part is not None})


def _check(rule: Rule, pattern: Pattern) -> None:
    """Run a rule's cases against it alone: an earlier rule may shadow it on purpose."""
    for case in rule.cases:
        got = _answer(rule, pattern, case.text.strip())
        if got != case.answer:
            raise LaneRuleError(
                f"lanes: rule {rule.name!r} fails its test case {case.text!r}:"
                f" expected {_shown(case.answer)}, got {_shown(got)};"
                " mend the pattern, the template or the case"
            )


def operator_rule(
    name: str,
    pattern: str,
    template: str,
    cases: Sequence[Case],
    *,
    ignore_case: bool = True,
) -> Rule:
    """Make a rule of an operator's regex and template.

    In the template `{name}` is the text of the named group, `{{` and `}}` are braces; nothing
    else is interpreted. At least one case is required. Raises LaneRuleError.
    """
    if not cases:
        raise LaneRuleError(f"lanes: rule {name!r} has no test case; give it at least one")
    groups = compile_pattern(Rule(name, pattern, _decline, (), ignore_case)).groupindex
    parts = template_parts(name, template)
    for part in parts:
        if part.group is not None and part.group not in groups:
            raise LaneRuleError(
                f"lanes: rule {name!r}: the template names {{{part.group}}}, but the pattern has no"
                f" group (?P<{part.group}>...); it has {sorted(groups) or 'none'}"
            )

    def fill(found: Groups) -> str:
        return "".join(
            part.text if part.group is None else found.get(part.group, "") for part in parts
        )

    return Rule(name, pattern, fill, tuple(cases), ignore_case)


@dataclass(frozen=True, slots=True)
class TemplatePart:
    """A piece of a template: literal text, or a group's name."""

    text: str
    group: str | None = None


_TEMPLATE = re.compile(r"\{\{|\}\}|\{([A-Za-z_]\w*)\}|[{}]|[^{}]+")


def template_parts(name: str, template: str) -> tuple[TemplatePart, ...]:
    """Split a template into text and `{names}`. Raises LaneRuleError on a single brace."""
    parts: list[TemplatePart] = []
    for piece in _TEMPLATE.finditer(template):
        text = piece.group()
        if piece.group(1) is not None:
            parts.append(TemplatePart("", piece.group(1)))
        elif text in {"{", "}"}:
            raise LaneRuleError(
                f"lanes: rule {name!r}: a single {text!r} at position {piece.start()} of the template;"
                " write {{ or }} for a brace, {name} for a group"
            )
        else:
            parts.append(TemplatePart(text[0] if text in {"{{", "}}"} else text))
    return tuple(parts)


class Patterned(Protocol):
    """Whatever has a name and a pattern: a rule or a skeleton."""

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def pattern(self) -> str:
        """An RE2 expression for the whole text."""
        ...

    @property
    def ignore_case(self) -> bool:
        """Whether case does not matter."""
        ...


def compile_pattern(rule: Patterned) -> Pattern:
    """Compile a pattern. Raises LaneRuleError saying what RE2 cannot do."""
    if len(rule.pattern) > MAX_PATTERN_CHARS:
        raise LaneRuleError(
            f"lanes: rule {rule.name!r}: the pattern has {len(rule.pattern)} characters;"
            f" at most {MAX_PATTERN_CHARS} are allowed"
        )
    try:
        pattern: Pattern = re2.compile(_scoped(rule), _options())
    except (re2.error, UnicodeEncodeError) as exc:
        detail = exc.args[0] if exc.args else exc
        said = detail.decode(errors="replace") if isinstance(detail, bytes) else str(detail)
        raise LaneRuleError(
            f"lanes: rule {rule.name!r}: the pattern is no RE2 expression: {said}"
            " (RE2 has neither look-around nor back-references)"
        ) from exc
    return pattern


def _group_reader(rule: Rule) -> Pattern:
    return re.compile(_scoped(rule)) if rule.shipped else compile_pattern(rule)


@lru_cache(maxsize=2)
def _compile_pattern_set(patterns: tuple[str, ...]) -> Callable[[str], list[int] | None]:
    """All patterns as one automaton; returns the indices of those that match the whole text.

    Remembered: a reload that compiled the same rules anew held its loop for 3 ms.
    """
    everything = re2.Set.FullMatchSet(_options())
    for pattern in patterns:
        everything.Add(pattern)
    everything.Compile()
    match: Callable[[str], list[int] | None] = everything.Match
    return match


def _scoped(rule: Patterned) -> str:
    return f"(?i:{rule.pattern})" if rule.ignore_case else f"(?:{rule.pattern})"


def _options() -> object:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_AUTOMATON_BYTES
    return options


def _decline(_: Groups) -> str | None:
    return None


def _shown(answer: str | None) -> str:
    return "no answer" if answer is None else repr(answer)

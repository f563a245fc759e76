"""The classifier: complexity, cacheability and tool need of a request, from one set of features."""

from __future__ import annotations

from app.classify.cacheability import CacheabilityRules
from app.classify.complexity import Complexity
from app.classify.features import DENSE_NAMES, Features, extract
from app.classify.tool_need import ToolNeed
from app.domain.decisions import Classification, PromptView
from app.domain.language import detect_language

_OTHER_SCRIPT = DENSE_NAMES.index("other_script_share")
_OTHER_SCRIPT_SHARE = 0.2
_LANGUAGE_CHARS = 160


class Classifier:
    """Classifies requests; never raises, whatever the text.

    Its only state is `complexity` (whose head a learner swaps) and `tools` (which learns from observed
    calls).
    """

    __slots__ = ("_cacheability", "_last", "complexity", "tools")

    def __init__(self, complexity: Complexity | None = None) -> None:
        """Load the shipped tables, that of `complexity` only if it is not given: about 30 ms, 8 MB."""
        self.complexity = complexity if complexity is not None else Complexity()
        self.tools = ToolNeed()
        self._cacheability = CacheabilityRules()
        self._last: tuple[PromptView, Features] | None = None

    def classify(self, view: PromptView, tenant: str = "") -> Classification:
        """Classify one request: about 0.2 ms, bounded as the text is truncated.

        ``tenant``: whose tool-call statistics are used.
        """
        features = extract(view)
        self._last = view, features
        caching = self._cacheability.judge(features, offers_tools=bool(view.tool_names))
        need, several, guess = self.tools.estimate(features, view, tenant)
        complexity = self.complexity(features)
        return Classification(
            complexity=complexity,
            cacheability=caching.kind,
            ttl_s=caching.ttl_s,
            semantic_ok=caching.semantic_ok,
            tool_need=need,
            several_calls=several,
            language=_language(view.text, features),
            reason=f"complexity {complexity:.2f}; {caching.reason}",
            tool_guess=guess,
        )

    def features(self, view: PromptView) -> Features:
        """The features of a request; those of the last classified one are cached."""
        last = self._last
        return last[1] if last is not None and last[0] is view else extract(view)


def _language(text: str, features: Features) -> str | None:
    """The language of a request; of mostly ASCII text from the words counted already."""
    if features.dense[_OTHER_SCRIPT] < _OTHER_SCRIPT_SHARE:
        return features.language
    return detect_language(text[:_LANGUAGE_CHARS])

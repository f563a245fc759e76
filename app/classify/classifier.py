"""The classifier: complexity, cacheability and tool need of a request, from one set of features."""

from __future__ import annotations

from app.classify.cacheability import CacheabilityRules
from app.classify.complexity import Complexity
from app.classify.features import DENSE_NAMES, Features, extract
from app.classify.tool_need import ToolNeed
from app.domain.decisions import Classification, PromptView
from app.domain.language import language

_OTHER_SCRIPT = DENSE_NAMES.index("other_script_share")
_FOREIGN = 0.2
_SCRIPT_CHARS = 160


class Classifier:
    """Judges requests; never raises, whatever the text.

    `complexity` (whose head a learner swaps) and `tools` (which is told what was called) are its only state.
    """

    __slots__ = ("_cacheability", "_last", "complexity", "tools")

    def __init__(self, complexity: Complexity | None = None) -> None:
        """Load the shipped tables, that of the complexity unless it is given: about 30 ms, 8 MB."""
        self.complexity = complexity if complexity is not None else Complexity()
        self.tools = ToolNeed()
        self._cacheability = CacheabilityRules()
        self._last: tuple[PromptView, Features] | None = None

    def classify(self, view: PromptView, tenant: str = "") -> Classification:
        """Judge one request: about 0.2 ms, bounded by the cap on the text that is read.

        ``tenant``: whose statistics of tools are used.
        """
        features = extract(view)
        self._last = view, features
        kept = self._cacheability.judge(features, offers_tools=bool(view.tool_names))
        need, several, guess = self.tools.estimate(features, view, tenant)
        complexity = self.complexity(features)
        return Classification(
            complexity=complexity,
            cacheability=kept.kind,
            ttl_s=kept.ttl_s,
            semantic_ok=kept.semantic_ok,
            tool_need=need,
            several_calls=several,
            language=_language(view.text, features),
            reason=f"complexity {complexity:.2f}; {kept.reason}",
            tool_guess=guess,
        )

    def features(self, view: PromptView) -> Features:
        """The features of a request; those of the one that was judged last are still at hand."""
        last = self._last
        return last[1] if last is not None and last[0] is view else extract(view)


def _language(text: str, features: Features) -> str | None:
    """The language of a request; one of mostly ASCII from the words that are read already."""
    if features.dense[_OTHER_SCRIPT] < _FOREIGN:
        return features.language
    return language(text[:_SCRIPT_CHARS])

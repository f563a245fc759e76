"""The classifier: complexity, cacheability and tool need of a request, from one set of features."""

from __future__ import annotations

from collections.abc import Callable

from app.classify.cacheability import CacheabilityRules
from app.classify.complexity import prior
from app.classify.features import Features, extract
from app.classify.tool_need import ToolNeed
from app.domain.decisions import Classification, PromptView

Complexity = Callable[[Features], float]


class Classifier:
    """Judges requests; holds the statistics of tool calls. Pure apart from those, and never raises."""

    __slots__ = ("_cacheability", "_complexity", "tools")

    def __init__(self, complexity: Complexity = prior) -> None:
        """`complexity`: P(the powerful model is better) of features; the hand-written prior if none."""
        self._complexity = complexity
        self._cacheability = CacheabilityRules()
        self.tools = ToolNeed()

    def classify(self, view: PromptView) -> Classification:
        """Judge one request: about 0.1 ms, bounded by the cap on the text that is read."""
        features = extract(view)
        kept = self._cacheability.judge(features, offers_tools=bool(view.tool_names))
        need, several = self.tools.estimate(features, view)
        complexity = self._complexity(features)
        return Classification(
            complexity=complexity,
            cacheability=kept.kind,
            ttl_s=kept.ttl_s,
            semantic_ok=kept.semantic_ok,
            tool_need=need,
            several_calls=several,
            language=None,
            reason=f"complexity {complexity:.2f}; {kept.reason}",
        )

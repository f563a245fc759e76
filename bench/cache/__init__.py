"""The semantic cache's benchmark: streams replayed, near-misses judged, decisions timed."""

"""Prompts laid out so that the vendors' prompt caches hit, and the contracts of their outputs."""

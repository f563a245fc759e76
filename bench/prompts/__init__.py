"""Prompt caching, counted by the simulated vendor."""

"""Durable runs: agent work that outlives its connection."""

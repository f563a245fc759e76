"""Slipstream: a latency-optimizing agent gateway. ARCHITECTURE.md draws the rooms of this package."""

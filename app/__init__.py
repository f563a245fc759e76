"""Slipstream: a latency-optimizing agent gateway. ARCHITECTURE.md draws its rooms."""

__version__ = "0.1.0"

"""The fault laboratory: named faults between real processes, and what became of every request."""

"""Answers that are already known: exact, semantic and in flight; its keys are its whole safety."""

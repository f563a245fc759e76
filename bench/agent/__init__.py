"""Agent runs, measured: max(calls) against sum(calls), and what the scheduler itself costs."""

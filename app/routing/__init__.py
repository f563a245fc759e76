"""Which model answers: scores, load, circuit breakers, hedges and escalation."""

"""The simulated upstream: a server that speaks the vendors' dialects with a scripted clock."""

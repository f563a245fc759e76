"""The benchmarks: what Slipstream costs and saves, measured beside the alternatives."""

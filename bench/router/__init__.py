"""Quality, cost and speed of the classifier and the router on public data."""

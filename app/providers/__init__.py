"""Ways to a model behind one `Provider` protocol, and the policies around each call."""

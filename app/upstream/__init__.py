"""Our HTTP/1.1 client to the models: a sans-IO parser and a warm, bounded, timed pool."""

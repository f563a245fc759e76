"""Small learners (numpy only) that cache, classify, routing and tools share."""

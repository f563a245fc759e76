"""Key-value and vector stores: memory, Redis and Qdrant; no policy."""

"""The dialects, sans-IO: bytes to events and events to bytes, as pure functions."""

"""What recorded traffic would have met under other settings: read, decide again, resample, compare."""

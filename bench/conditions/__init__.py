"""What a gateway adds under conditions that `make bench` does not make: TLS, distance, a busy loop."""

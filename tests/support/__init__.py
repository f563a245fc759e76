"""Real loopback servers, clocks and builders that the tests share."""

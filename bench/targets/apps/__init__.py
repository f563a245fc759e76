"""The bare Python proxies that people write first."""

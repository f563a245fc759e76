"""Where each millisecond, token and cent went: timeline, metrics, traces, ledger and log."""

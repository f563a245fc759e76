"""Tools that a model may call over HTTP, Python or MCP, and what they are allowed to reach."""

"""The straight line of a request: `answer` reads top to bottom like the picture."""

"""What a request needs: complexity, cacheability and the probability of a tool call."""

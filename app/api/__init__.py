"""The HTTP surface: one small module a family of endpoints, and the owner of a request's life."""

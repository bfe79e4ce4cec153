"""Where events go: one module a kind."""

"""Helpers, by what they help with."""

"""Hooks for the length of a `with` block, seen only by the thread or task that opened it."""

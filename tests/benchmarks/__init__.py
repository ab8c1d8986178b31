"""Benchmarks: run by hand, never collected by pytest, and no figure of theirs gates anything."""

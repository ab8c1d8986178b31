"""Canonical JSON, references, records and gates, in the standard library alone."""

"""Composition only: settings, presets, command line, one flow per stage and the pipeline."""

"""Llama, its training loop, evaluation, file formats and taps, in torch alone."""

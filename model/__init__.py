"""Llama, its training loop, its evaluation, its file formats and its taps; knows neither Prefect nor MLflow."""

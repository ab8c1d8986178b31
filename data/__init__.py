"""From source files to batches of token rows; knows neither torch nor Prefect."""

"""One file per stage: open inputs, call the pure function, store the result, record it."""

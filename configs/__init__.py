"""One short file per row of the model zoo, and the embedded default."""

"""Reading data sets and making batches; knows nothing of models."""

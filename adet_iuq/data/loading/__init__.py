"""Turns records into batches: mappers, samplers, workers and the two loaders."""

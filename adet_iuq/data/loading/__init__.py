"""From records to batches: mappers, samplers, workers and the two loaders."""

"""The flow of data: records, tokens with labels, packed batches, and loaders."""

"""From items to results: admission, decoding, batches, answers that are kept, and the model."""

"""The layer-split language model: model, documents, data module, task, checkpoints, decoding."""

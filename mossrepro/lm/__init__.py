"""The layer-split language model: one frozen text LLM, two tails."""

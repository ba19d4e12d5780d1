"""Codes to sound: flow-matching decoder, vocoder, their data, tasks and checkpoints."""

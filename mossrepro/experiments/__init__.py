"""The graph of stages, and the commands that run it: reproduce, ablate, controls, the codec's baselines."""

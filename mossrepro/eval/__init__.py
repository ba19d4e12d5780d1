"""Measurements: each writes facts."""

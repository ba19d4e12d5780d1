"""Corpora, facts, documents and the data modules that feed every stage."""

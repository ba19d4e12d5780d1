"""Corpora, facts, script, alignment and the token store: no network and no trainer."""

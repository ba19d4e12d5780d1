"""Utilities that do not depend on the models: files, random numbers, threads, audio, transformer layers."""

"""Small tools that know nothing of speech models: files, random numbers, threads, audio, layers."""

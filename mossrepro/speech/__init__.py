"""Models that are not ours: judge, aligner, synthesisers, predicted MOS, speaker vectors, text normalisation."""

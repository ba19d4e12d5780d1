"""From codes to sound: flow decoder (codes -> mel), waveform generator (mel -> wave), and the two in a row."""

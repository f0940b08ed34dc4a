"""Waveforms: the vocoder in windows, ranking, files and pictures."""

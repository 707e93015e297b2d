"""Radial and graph spectra of models, runs and caches: `freqkd spectrum`."""

"""Score and label images: `freqkd eval`, `compare` and `predict`."""

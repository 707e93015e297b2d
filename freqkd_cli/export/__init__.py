"""Write trained models for other programs and check them: `freqkd export`."""

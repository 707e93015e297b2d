"""Train a student: `freqkd distill`, its loop, checkpoints, run folder and log."""

"""The frozen teacher: live or cached, its classes, and `freqkd teacher-dump`."""

"""Device, precision, processes, threads, memory, files, locks, logs and progress."""

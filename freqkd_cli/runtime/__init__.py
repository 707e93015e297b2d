"""Device, precision, processes, threads, memory, files, logs and progress of a process."""

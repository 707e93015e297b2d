"""Image and label files: find and pair them, decode them, turn stored label values into classes."""

"""What the commands call. Only ``assemble`` turns names into objects."""

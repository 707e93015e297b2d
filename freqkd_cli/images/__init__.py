"""Read images and masks from disk, pair them, and map stored label values to classes."""

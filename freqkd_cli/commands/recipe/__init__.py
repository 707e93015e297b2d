"""Check, show, list and copy recipes."""

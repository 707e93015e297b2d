"""What a person sees: tables, plots, pictures, progress."""

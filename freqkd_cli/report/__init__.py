"""Output for people: tables, plots, images, progress bars."""

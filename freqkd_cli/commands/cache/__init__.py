"""Look at caches of a teacher, and check them."""

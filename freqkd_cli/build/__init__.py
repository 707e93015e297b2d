"""Turn a recipe into objects: the whole-recipe check, models, losses and schedules."""

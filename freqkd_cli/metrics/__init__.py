"""Workroom: scores of a whole split, from one confusion matrix and from boundary regions."""

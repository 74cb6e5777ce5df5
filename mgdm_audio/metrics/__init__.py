"""Scores of separations, and their statistics."""

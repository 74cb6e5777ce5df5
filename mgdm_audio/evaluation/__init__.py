"""Runs over data sets with reference stems."""

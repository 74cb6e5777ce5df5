"""Measurements on Slakh2100 and on folders in its four-stem layout."""

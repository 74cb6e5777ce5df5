"""Whole recordings and files: any rate, channels and length."""

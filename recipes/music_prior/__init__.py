"""Compose or read songs, render them, train on them, and ship the bundled music prior."""

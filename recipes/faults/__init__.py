"""Faults on purpose: bad files, signals, full disks, and whether anything is lost by them."""

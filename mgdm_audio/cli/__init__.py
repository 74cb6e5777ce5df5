"""The commands: mgdm-separate, mgdm-evaluate, mgdm-models."""

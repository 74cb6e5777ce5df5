"""Image recipes: the samplers of ``mgdm_core`` restore images, with the very same code as audio."""

"""Pure functions that samplers are built from: transitions, conditioning, gradients, grids."""

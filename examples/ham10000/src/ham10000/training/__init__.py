"""Training: recipes in, runs out, on any number of processes."""

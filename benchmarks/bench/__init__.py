"""What the benchmarks share, and one file for each of their parts."""

"""Parts of the benchmark, one file each, and what they share."""

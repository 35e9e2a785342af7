"""Parts of the benchmark, one file each, and shared utilities."""

"""What predictions are worth: numbers with intervals, and comparisons that are paired."""

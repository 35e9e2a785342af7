"""A comparison of two recipes over seeds and lesions: what to train, its numbers, a verdict."""

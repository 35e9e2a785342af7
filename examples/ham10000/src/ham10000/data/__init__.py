"""HAM10000 as files, splits, a cache and batches; one idea a module, in the order of their use."""

"""Foreign files of weights: read strictly, as data, from disk or hub."""

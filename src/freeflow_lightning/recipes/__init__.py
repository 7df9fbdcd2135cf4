"""Training recipes, one file a method."""

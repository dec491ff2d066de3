"""From rows to a fitted pipeline, and how good it is."""

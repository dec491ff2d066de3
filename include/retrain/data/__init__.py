"""Rows: where they come from, what they must be, and how they are versioned."""

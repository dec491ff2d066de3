"""Answers to people, read from what is on record."""

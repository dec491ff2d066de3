"""Figures, HTML pages and safe text for people."""

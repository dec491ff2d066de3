"""The libraries with a heavy face, one per file, imported nowhere else. Tools do not import each other."""

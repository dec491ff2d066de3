"""The libraries with a heavy face, one per package, imported nowhere else. Tools do not import each other."""

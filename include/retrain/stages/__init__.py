"""The stages of the loop, one verb per file. Stages do not import each other."""

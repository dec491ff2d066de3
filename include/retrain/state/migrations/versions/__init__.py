"""One file a revision; each says which it follows."""

"""What people look at: figures, pages, safe text."""

"""Writing a spec: a first one from data, what is wrong with one, and the page of every key."""

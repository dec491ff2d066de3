"""Running the stages again in a home that is thrown away: other policies, or an old version."""

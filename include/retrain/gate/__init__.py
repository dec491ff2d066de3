"""May a candidate serve? Its evidence, the level it may spend, the checks, the judge and the table."""

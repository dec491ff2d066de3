"""May a candidate serve? The judge, its checks, what a look at the holdout costs, and the table."""

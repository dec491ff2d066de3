"""The champion on new rows: drift, estimated and realised performance, and the log of its predictions."""

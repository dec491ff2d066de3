"""Versions and who serves: MLflow, promotion, rollback, approval, smoke test, lineage."""

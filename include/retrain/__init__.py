"""Retrain keeps tabular models in production good: one YAML file per model, one stage per verb."""

"""Persona's domain: from drops of conversations to recommendations. Knows neither Dagster nor FastAPI."""

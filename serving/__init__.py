"""The HTTP service: FastAPI over the stores. It answers; it neither ingests nor trains, and never imports Dagster."""

"""Dagster's side: the asset graph over the domain. Definitions, resources, checks and automation; no domain logic, no queries."""

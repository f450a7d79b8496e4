"""Claiming, parsing and judging drops, and loading catalogs. What is done with accepted records afterwards lives elsewhere."""

"""Backup of the truth and of what cannot be computed from it, and its restoration. Projections are rebuilt, not backed up."""

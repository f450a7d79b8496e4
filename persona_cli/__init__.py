"""The command line, one module a noun. Translates words into calls of the domain, Dagster and serving; no logic of its own."""

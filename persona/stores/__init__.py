"""The only place with queries: one module for each store. What is kept and why is decided elsewhere."""

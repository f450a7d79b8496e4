"""A person's data: export, erasure, tombstones, proof. How drops are read and stores are queried lives elsewhere."""

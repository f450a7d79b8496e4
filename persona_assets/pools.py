"""The concurrency pools, one a store: which runs may not execute side by side. How many may is in `dagster.yaml`."""

MONGODB, MILVUS, NEO4J, WAREHOUSE = POOLS = ("mongodb", "milvus", "neo4j", "warehouse")

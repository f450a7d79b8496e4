"""The servers of production, started for tests: another MongoDB, Milvus standalone, Neo4j, Redis 7 and PostgreSQL than `persona up` starts."""

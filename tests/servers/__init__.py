"""The servers of production, started for tests beside those that `persona up` starts."""

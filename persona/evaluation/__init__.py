"""How well rankings do, so that it cannot be fooled: metrics, splits, intervals, baselines, replay, the gate. No HTTP, no Dagster."""

"""What a store is to hold, computed from the truth. Pure functions: no store, no clock, no model."""

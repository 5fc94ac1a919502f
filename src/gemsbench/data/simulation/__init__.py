"""A simulated world of tastes, topics and texts, written as raw files in the formats of the real data."""

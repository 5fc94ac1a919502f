"""Language models that methods are trained on: hub models at pinned revisions, and small stand-ins made on the spot."""

"""Raw sources become canonical tables: one file per source, one shape for all of them."""

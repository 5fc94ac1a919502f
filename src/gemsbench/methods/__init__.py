"""One file per row of the tables; every method fits on the training split and scores candidates."""

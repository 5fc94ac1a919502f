"""The jobs of a profile as data, and the verbs around them; which of them run is decided by Snakemake."""

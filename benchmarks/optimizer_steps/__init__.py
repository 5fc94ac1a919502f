"""The parts of benchmarks/optimizer.py: models and batches, contenders, clocks, memory, the record and its table."""

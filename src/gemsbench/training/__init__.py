"""Training of language models: prompts as token ids, batches, one loop, checkpoints.

`loop.train` turns any model, loss and validation figure into the best weights; the rest makes what it is fed.
"""

"""What the sampler does to the logits of one row: adjust them, leave out the unlikely, report probabilities.

Every function takes one row as a numpy vector and runs on one thread, so that a row's result has the same bits in every
batch and on any number of threads. What vLLM does with a parameter of the same name is the standard.
"""

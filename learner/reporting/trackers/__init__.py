"""TensorBoard and Weights & Biases: each in a process of its own, so that none can stop or slow the training.

`feed.py` is the learner's side, `process.py` the other one; `contract.py` is what they share.
"""

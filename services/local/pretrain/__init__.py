"""`tppo pretrain-critic`: the value model learns the responses of the frozen policy before the run."""

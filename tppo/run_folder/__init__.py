"""A run's folder, `runs/NAME/`: the third channel between processes, beside Redis and gRPC.

Names, durable writes, files of JSON lines, and the finding of checkpoints; the standard library only.
"""

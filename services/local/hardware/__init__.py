"""What a run takes of a machine: devices, memory, and how large its models are."""

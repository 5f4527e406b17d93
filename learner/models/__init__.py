"""The policy and the value model: loading, packing rows, attention, and the outputs at the selected tokens."""

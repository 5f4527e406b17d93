"""Rows as tensors, and what the value model says of them: advantages and masks, before any update."""

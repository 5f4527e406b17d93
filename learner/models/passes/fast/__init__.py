"""Qwen2, Qwen3 and Llama in few operations, as transformers computes them."""

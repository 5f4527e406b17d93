"""Models with their KV caches, one token a step: a fast path for Llama and Qwen, and a general one."""

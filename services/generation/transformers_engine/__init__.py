"""The engine on transformers models: a fast path for Qwen2, Qwen3 and Llama, and one for everything else."""

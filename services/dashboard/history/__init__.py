"""What a run's folder tells: its journal, its metrics, its traces, its checkpoints. Works without any server."""

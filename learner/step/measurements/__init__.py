"""What is measured in a step: metrics, diagnostics of responses, traces of tokens, agreement with the engines."""

"""Who may call whom: bearer tokens, mutual TLS, and the token that steers a run."""

"""One training step: rows in, two updated models and the step's metrics out."""

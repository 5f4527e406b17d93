"""From the learner's offer to weights that are proved and served."""

"""Is an answer equal to the ground truth? Read by latex2sympy2_extended's grammar, compared by bounded arithmetic."""

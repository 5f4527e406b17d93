"""Is an answer equal to the ground truth? Parsed by math-verify's LaTeX grammar, judged with bounded arithmetic."""

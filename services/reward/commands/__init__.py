"""The verbs of the console script that need no run: score, rescore, conformance."""

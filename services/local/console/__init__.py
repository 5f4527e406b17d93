"""What the user of `tppo run` sees on the console: state, progress, completions."""

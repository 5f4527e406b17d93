"""Data files in verl's columns, checked row by row, and the prompts that they become."""

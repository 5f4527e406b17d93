"""From the text of an answer to its structure, and to the values of its parts."""

"""The isolated side. Standard library only; inside bubblewrap these files are all that there is of the project."""

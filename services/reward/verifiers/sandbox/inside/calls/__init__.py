"""Calls between the judge's process and the program's: what crosses, and how."""

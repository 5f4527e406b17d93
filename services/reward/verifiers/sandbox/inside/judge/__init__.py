"""Runs the tests of a row where the program is not."""

"""Whether a program that a response holds passes the tests of its row: what is tried, where, and the verdict."""

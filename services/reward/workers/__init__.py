"""Processes that call reward functions under a deadline; forked from one server, and killed when they hang."""

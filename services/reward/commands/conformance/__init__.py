"""Checks a user's client against the rules of Attach: `tppo reward conformance ADDRESS`."""

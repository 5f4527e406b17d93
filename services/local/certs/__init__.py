"""Certificates to try TLS with."""

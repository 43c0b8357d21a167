"""Certificates, and the verifier."""

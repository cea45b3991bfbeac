"""Inversion: from moved features back to pixels."""

"""Inputs: one listing for images, tables, archives and list files."""

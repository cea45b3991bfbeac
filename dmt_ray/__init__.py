"""Edit whole image collections by deep manifold traversal, on Ray."""

__version__ = "0.1.0"

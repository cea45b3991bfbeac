"""Models: network weights and saved manifolds."""

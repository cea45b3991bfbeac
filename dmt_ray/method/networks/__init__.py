"""The networks: a registry of backbones, and one stack of convolutions under all of them."""

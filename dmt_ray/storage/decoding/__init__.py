"""Encoded images to RGB: what the bytes are, which library reads them, how colours and depths become 8-bit sRGB."""

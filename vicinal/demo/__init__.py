"""The demo: the whole product, end to end, on real images."""

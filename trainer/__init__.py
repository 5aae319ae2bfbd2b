"""Images to views to an encoder."""

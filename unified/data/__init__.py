"""Reading, transforming and batching annotated images."""

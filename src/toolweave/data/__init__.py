"""Data: readers, the embedded catalogue, synthesis, validation and mixing."""

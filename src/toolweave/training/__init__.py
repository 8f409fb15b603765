"""Training: prefix-tree packing, attention, loss and the fine-tuning loop."""

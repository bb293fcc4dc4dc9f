"""Publishing, model card, merging and export."""

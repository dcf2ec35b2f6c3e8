"""A network on a picture of any size: whole, from a small copy, in tiles, in batches; PyTorch or converted."""

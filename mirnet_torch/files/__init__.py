"""Photographs and videos as files: finding them, reading them, writing what was made of them."""

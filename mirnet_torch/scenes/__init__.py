"""Scenes to learn from and to measure with: pairs, photographs, panoramas of true light, and a camera in the dark."""

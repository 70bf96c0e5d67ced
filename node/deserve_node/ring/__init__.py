"""Rings: the head's scheduler, the loops of head and stage, and the links between them."""

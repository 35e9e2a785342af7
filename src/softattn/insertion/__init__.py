"""Insertion of attention after named modules of a model, with all other keys unchanged."""

from softattn.insertion.insert import insert_attention, remove_attention

__all__ = ["insert_attention", "remove_attention"]

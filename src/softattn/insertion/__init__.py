"""Attention inside a model that exists: after named modules, with all other keys unchanged."""

from softattn.insertion.insert import insert_attention, remove_attention

__all__ = ["insert_attention", "remove_attention"]

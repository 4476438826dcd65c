"""Helpers that know nothing of faces or speech."""

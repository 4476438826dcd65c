"""Helpers without knowledge of faces or speech."""

"""Marks of generated media: visible label, signed manifest, and their verification."""

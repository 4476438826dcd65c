"""Portraits, recordings and videos to and from arrays.

Import from the modules (`from osmnet.media.audio import load_speech`): each loads only what it needs.
"""

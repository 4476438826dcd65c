"""Files at the edges: portraits, recordings, videos and contact sheets to and from plain arrays.

Import from the modules themselves (`from osmnet.media.audio import load_speech`): each one loads only what it needs.
"""

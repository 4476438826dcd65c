"""Widgets, look and endpoints of the page (`app.py`). The work is in `osmnet.serving`."""

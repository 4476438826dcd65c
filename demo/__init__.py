"""What `app.py` is made of: the page's settings, its work, and the parts it shows. Only the page uses it."""

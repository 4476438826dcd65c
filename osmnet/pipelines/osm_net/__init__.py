"""OSM-Net: one-to-many talking heads."""

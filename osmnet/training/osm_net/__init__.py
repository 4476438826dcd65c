"""The training stages of OSM-Net."""

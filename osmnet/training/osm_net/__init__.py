"""Training stages of OSM-Net."""

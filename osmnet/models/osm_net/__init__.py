"""The networks of OSM-Net."""

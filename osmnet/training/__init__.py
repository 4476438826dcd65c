"""Training of the face model and of the networks, stage by stage."""

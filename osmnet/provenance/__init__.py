"""What says of a video that it is generated: the label that is seen, the manifest that is signed, and its check."""

"""How good a video is: one family of metrics a file, pure functions on frames, landmarks and sound."""

"""Images, audio and video to and from arrays; import from the modules."""

"""Face geometry: landmarks, pose, linear face model, mesh warp, mouth window, crop. See docs/conventions.md."""

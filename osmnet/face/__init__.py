"""Face geometry: landmarks, pose, the linear face model, the mesh warp and the crop. Conventions: docs/conventions.md."""

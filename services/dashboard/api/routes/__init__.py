"""The addresses below /api/v1, one module a subject; each `router` is made of the views that it answers from."""

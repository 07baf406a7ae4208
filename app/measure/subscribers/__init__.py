"""Many WebSocket clients of one busy camera: what they cost the pipeline, and what they get."""

"""The HTTP API: dialects in and out of one core request."""

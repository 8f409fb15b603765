"""Models: base models and their chat templates, and the client for any OpenAI-compatible server."""

"""The server: an OpenAI-compatible API, the endpoints of the web page, and the page itself."""

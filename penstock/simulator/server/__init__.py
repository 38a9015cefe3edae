"""The server: the ASGI application, the control endpoints and the listening socket."""

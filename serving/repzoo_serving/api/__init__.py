"""The ASGI application: routes, operations and access control."""

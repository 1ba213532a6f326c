"""The ASGI application: routes, operations, access control."""

"""The repzoo representation API as a BentoML service: version 1 of the wire, over HTTP.

``zoo serve`` starts it. The pieces, from the wire inwards:

    service     the BentoML service: workers, lifecycle, readiness; it mounts
    app         a bare ASGI application: routes, limits, the deadline, one problem per error
    requests    bodies in (JSON, multipart, safetensors) -> checked options and arrays
    responses   arrays -> bodies out (JSON, safetensors)
    problems    every error that can leave, as ``application/problem+json``
    engine      one loaded model and its operations, each behind a
    batching    greedy, bounded batcher

Nothing here is imported by ``import repzoo_serving`` itself.
"""

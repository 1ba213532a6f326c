"""The repzoo representation API as a BentoML service: version 1 of the wire, over HTTP.

``zoo serve`` starts it. The pieces, from the wire inwards:

    service     the BentoML service: workers and lifecycle; every request goes to
    app         a bare ASGI application: paths, readiness, one problem per error
    access      keys, rates, what is public, cross-origin requests; ``keys`` is their file
    exchange    one request on its way, and its reply
    operations  read, parse, run and write, within the deadline and while the caller is there
    requests    bodies in (JSON, multipart, safetensors) -> checked options and arrays
    openai      the same for clients of OpenAI's API
    responses   arrays -> bodies out (JSON, safetensors)
    problems    every error that can leave, as ``application/problem+json``
    models      which models are served; ``loading`` and ``watch`` change that
    engine      one loaded model and its operations, each behind a
    batching    greedy, bounded batcher, before the one thread of its ``runner``
    decoding    image files -> pixels, in a pool
    drain       the end: accepted requests finish, new ones are refused
    metrics     numbers for Prometheus; ``logs`` has a line for each request
    openapi     the document that describes it all; ``pages`` shows it, and the explorer

Nothing here is imported by ``import repzoo_serving`` itself.
"""

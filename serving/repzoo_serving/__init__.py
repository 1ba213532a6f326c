"""The repzoo representation API as a BentoML service: version 1 of the wire, over HTTP.

``zoo serve`` (``cli``) starts it:

    service    the BentoML service: workers and lifecycle
    settings   its settings; configuration reads them from flags, variables and a file
    http       connections, requests and responses, problem documents, hang-ups, the drain
    api        the ASGI application: routes, operations, API keys and rates
    wire       request bodies (JSON, multipart, safetensors) -> checked options and arrays, results
               -> response bodies, the same for OpenAI's API, and the OpenAPI document
    models     served models: loading, watching, decoding of images, batching, runs
    telemetry  logs, metrics and traces
    pages      the explorer and the API documentation

``import repzoo_serving`` itself imports none of them.
"""

"""`zoo hub serve`: serve a store or a flat folder over the Hugging Face Hub's HTTP API.

The unmodified huggingface_hub client, the ``hf`` command and browsers work with it.

| module | what |
| --- | --- |
| `limits` | size and time limits of requests |
| `library` | a store or a flat folder behind one interface |
| `access`, `context` | who sent a request, what they may do, and the repository it is about |
| `problems` | errors in the form that the Hub's client turns into its exceptions |
| `api` | the routes of the API, for reading and for writing |
| `cards`, `pages` | the content of model cards, and web pages |
| `access_log` | one line on stderr per request |
| `app`, `protocol`, `serve` | the application, its HTTP protocol, and running it |
"""

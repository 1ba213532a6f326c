"""`zoo hub serve`: a store or a flat folder over the Hugging Face Hub's own HTTP API.

The unmodified huggingface_hub client and the command ``hf`` work against it; so does a browser.

| module | what |
| --- | --- |
| `limits` | how much of anything a request may bring |
| `library` | a store or a flat folder, as the routes below see it |
| `access`, `context` | who sent a request, what they may do, and which repository it is about |
| `problems` | errors in the Hub's form, which its client turns into its exceptions |
| `bodies` | request bodies, read no further than they may go |
| `models`, `trees`, `paging` | the reading half of the API |
| `changes`, `commit_lines`, `uploads` | its writing half |
| `downloads` | the bytes of files, with ranges |
| `cards`, `markdown`, `pages` | what is in a card, and the plain pages for people |
| `access_log` | a line on stderr for each request |
| `app`, `protocol`, `serve` | all of it put together, and run |
"""

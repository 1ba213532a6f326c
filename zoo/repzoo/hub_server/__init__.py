"""`zoo hub serve`: a store or a flat folder over the Hugging Face Hub's own HTTP API.

The unmodified huggingface_hub client and the command ``hf`` work against it; so does a browser.

| module | what |
| --- | --- |
| `tokens` | the file of hashed tokens: who may read and write |
| `limits` | how much of anything a request may bring |
| `library` | a store or a flat folder, as the routes below see it |
| `access` | who sent a request, and what they may do |
| `problems` | errors in the Hub's form, which its client turns into its exceptions |
| `bodies` | request bodies, read no further than they may go |
| `models`, `revisions` | the reading half of the API |
| `changes`, `uploads` | its writing half: repositories, tags, commits; bytes of large files |
| `downloads` | the bytes of files, with ranges |
| `cards`, `pages` | for people: the plain pages |
| `access_log` | a line on stderr for each request |
| `app`, `serve` | all of it put together, and run |
"""

"""Embed images with a running server, and show which ones it is unsure about.

make serve                                             # in another terminal
python examples/embed_with_server.py digits/*.png
"""

from __future__ import annotations

import argparse

from repzoo_client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed images with a running server.")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--url", default="http://127.0.0.1:3000")
    parser.add_argument("--model", default="simvae-mnist")
    arguments = parser.parse_args()

    with Client(arguments.url) as client:
        embeddings, uncertainty = client.embed_with_uncertainty(
            arguments.images, model=arguments.model
        )
        labels = client.probe(arguments.images, "class", model=arguments.model).labels

    print(f"{len(embeddings)} embeddings of {embeddings.shape[1]} dimensions; the least certain:")
    for i in (-uncertainty).argsort()[:5]:
        print(f"{arguments.images[i]}  class {labels[i]}  uncertainty {uncertainty[i]:.3f}")


if __name__ == "__main__":
    main()

"""Embedding of any number of images into one parquet file: ``zoo embed``.

    SOURCE ──sources──> listing ──> parts of some thousand images, in the listing's order
    part   ──decoding (processes, ahead)──> pixels ──encoder──> part-000000.parquet
    parts  ──run──> the output, visible only when it is whole

A part is done once its file is there, and no part depends on how or when another was made: a run
that was killed goes on after the parts that it finished, on one machine or on many
(`repzoo.bulk.on_ray`), and ends with the same bytes.

    job         what is embedded, with what, into what; what of it is there already
    places      files and object stores alike, by fsspec
    sources     what a source holds, and its images by part
    decoding    image files -> pixels, in processes
    parts       the rows of a part: the code that every engine runs
    run         from a source to an output, restartable
    on_ray      the parts on a Ray cluster
"""

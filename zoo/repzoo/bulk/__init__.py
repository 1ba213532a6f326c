"""Embedding any number of images into one Parquet file: ``zoo embed``.

    source ──sources──> a listing ──> parts of a few thousand images, in the listing's order
    part   ──decoding (in processes, ahead)──> pixels ──encoder──> part-000000.parquet
    parts  ──run──> the output, which appears when it is complete

A part is finished once its file exists. Its content does not depend on how or when other parts are
computed. So a run that was killed continues after the finished parts, on one machine or on many,
and ends with the same bytes.

    formats     which file names are images
    folders     walking a local folder
    places      files on this machine and in object stores, through fsspec
    sources     the files of a source, and the images of each part
    job         the description of a run, which determines its output
    decoding    image files -> pixels, in processes
    parts       the rows of a part, for every engine
    skipping    how many bad files may be skipped
    run         from a source to an output, resumable
    on_ray      the parts on a Ray cluster
"""

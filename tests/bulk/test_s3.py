"""`zoo embed` with an S3 server (moto, on this machine) as source and output."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

import s3fs  # type: ignore[import-untyped]

BUCKET = "photos"


@pytest.fixture(scope="module")
def endpoint(unused_port: Callable[[], int]) -> Iterator[str]:
    """The URL of a server in its own process."""
    port = unused_port()
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p"]
    process = subprocess.Popen(
        [*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                httpx.get(url)
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def variables(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment variables for that server."""
    made = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture
def bucket(variables: dict[str, str], photos: Path) -> Iterator[Any]:
    """A file system with a bucket of 200 images, one of which cannot be decoded."""
    fs = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
    fs.mkdir(BUCKET)
    for folder in ("1", "3"):
        fs.put(f"{photos}/{folder}/", f"{BUCKET}/in/{folder}/", recursive=True)
    yield fs
    fs.rm(BUCKET, recursive=True)


def test_from_and_to(
    finish: Callable[..., Any],
    start: Callable[..., subprocess.Popen[str]],
    bucket: Any,
    tmp_path: Path,
) -> None:
    """A run that was killed resumes after the parts in the bucket."""
    out = f"s3://{BUCKET}/out/all.parquet"
    options = ("--part-size", "32", "--workers", "0")
    process = start(f"s3://{BUCKET}/in", out, *options)
    while process.poll() is None and len(bucket.glob(f"{out}.parts/part-*")) < 2:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = bucket.glob(f"{out}.parts/part-*")
    assert len(kept) >= 2
    status, stdout, stderr = finish(f"s3://{BUCKET}/in", out, *options)
    assert (status, stderr) == (3, "")
    assert f"{32 * len(kept)} were done earlier" in stdout
    # Nothing else is left, and the rows equal those of the same images on this machine.
    assert bucket.find(f"{BUCKET}/out") == [f"{BUCKET}/out/all.parquet"]
    (tmp_path / "remote.parquet").write_bytes(bucket.cat_file(out))
    bucket.get(f"{BUCKET}/in/", str(tmp_path / "copy"), recursive=True)
    assert finish(tmp_path / "copy", tmp_path / "local.parquet", *options)[0] == 3
    remote, here = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("remote", "local"))
    assert remote.equals(here)


def test_parquet_files(finish: Callable[..., Any], bucket: Any, tmp_path: Path) -> None:
    data = Path(__file__).parents[1] / "data" / "mnist" / "test-00000-of-00001.parquet"
    bucket.put(str(data), f"{BUCKET}/mnist/{data.name}")
    status, _, stderr = finish(f"s3://{BUCKET}/mnist", tmp_path / "out.parquet")
    assert (status, stderr) == (0, "")
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 500


def test_keys_are_not_patterns(
    finish: Callable[..., Any], bucket: Any, photos: Path, tmp_path: Path
) -> None:
    file = (photos / "0" / "0000.png").read_bytes()
    keys = ["a*.png", "br[2021]/x.png", "photo1.png", "photo?.png", "photo[1].png"]
    for key in [*keys, "out1.parquet"]:
        bucket.pipe_file(f"{BUCKET}/odd/{key}", file)
    out = f"s3://{BUCKET}/odd/out[1].parquet"
    for options in ((), ("--overwrite",)):
        status, _, stderr = finish(f"s3://{BUCKET}/odd/photo[1].png", out, *options)
        assert (status, stderr) == (0, "")
    # Replacing out[1].parquet did not remove out1.parquet.
    assert bucket.exists(f"{BUCKET}/odd/out1.parquet")
    for name in ("out1.parquet", "out[1].parquet"):
        bucket.rm_file(f"{BUCKET}/odd/{name}")
    status, _, stderr = finish(f"s3://{BUCKET}/odd", tmp_path / "all.parquet", "--workers", "0")
    assert (status, stderr) == (0, "")
    assert pq.read_table(tmp_path / "all.parquet")["id"].to_pylist() == keys


def test_a_bucket_that_is_not_there(
    finish: Callable[..., Any], variables: dict[str, str], photos: Path
) -> None:
    status, _, stderr = finish("s3://nowhere/in", "out.parquet")
    assert status == 1
    assert stderr == "zoo: s3://nowhere/in does not exist\n"
    status, _, stderr = finish(photos / "1", "s3://nowhere/out.parquet")
    assert status == 1
    assert "Traceback" not in stderr

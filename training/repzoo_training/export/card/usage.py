"""The code on a card that runs the model, with repzoo and without it."""

from __future__ import annotations

from repzoo.packages.config import InputSpec, ModelConfig

__all__ = ["usage"]


def usage(config: ModelConfig) -> str:
    height, width, channels = config.input.shape
    lines = [
        "## Usage\n",
        "```python",
        "import repzoo  # pip install 'repzoo[runtime]'\n",
        f'encoder = repzoo.load("{config.name}")  # or hub="hf://ORG", if another hub serves it',
        f'encoder.embed("image.png")  # float32 [1, {config.latent_dim}]',
    ]
    if config.has_posterior:
        lines.append('encoder.posterior("image.png")  # mean and variance')
    if config.uncertainty is not None:
        lines.append('encoder.uncertainty("image.png")  # probability in [0, 1]')
    if config.content is not None:
        lines.append('encoder.embed("blurred.png", robust=True)  # of the undegraded image')
    if config.has_decoder:
        lines.append("encoder.generate(16, seed=0)  # images in [0, 1]")
    outputs = ", ".join(config.outputs)
    names = ", ".join(f'"{name}"' for name in config.outputs)
    lines += [
        "```\n",
        f"`zoo info {config.name}` prints the revision of the model, the sha256 of its manifest. "
        f'`repzoo.load("{config.name}@sha256:REVISION")` loads exactly that revision from any hub. '
        f"`zoo verify {config.name}` runs it against its golden outputs.\n",
        "The graph also runs without repzoo. `ImageOps.fit` comes close to repzoo's preprocessing, "
        "which also handles transparency and EXIF orientation:\n",
        "```python",
        "import numpy as np",
        "import onnxruntime",
        "from PIL import Image, ImageOps\n",
        f'image = Image.open("image.png").convert("{config.input.mode}")',
        *_fitted(config.input),
        'session = onnxruntime.InferenceSession("encoder.onnx")',
        f"{outputs}{',' if len(config.outputs) == 1 else ''} = session.run(",
        f'    [{names}], {{"images": pixels.reshape(1, {height}, {width}, {channels})}}',
        ")",
        "```\n",
    ]
    return "\n".join(lines)


def _fitted(spec: InputSpec) -> list[str]:
    """Return code that makes ``pixels`` of ``image``."""
    rows, columns = spec.scaled
    top, left = (rows - spec.height) // 2, (columns - spec.width) // 2
    crop = f".crop(({left}, {top}, {left + spec.width}, {top + spec.height}))"
    scaled = (
        f"ImageOps.fit(image, ({columns}, {rows}), Image.Resampling.{spec.resize.filter.upper()})"
    )
    if spec.resize.size is None:
        return [f"pixels = np.asarray({scaled})"]
    return [f"image = {scaled}", f"pixels = np.asarray(image{crop})"]

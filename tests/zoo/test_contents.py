"""The content that several views of one thing share, and new views of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import repzoo
from repzoo.runtime.contents import ViewModel, group_rows, product, read_view_model
from repzoo.runtime.encoder import Encoder

Make = Callable[..., Path]

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 1), dtype=np.uint8)
PRIORS = [ViewModel(0.15, 0.0), ViewModel(0.3, 1.0)]


@pytest.fixture(scope="module")
def encoder(make_package: Make, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    path = make_package(tmp_path_factory.mktemp("packages"), "views", simvae={"scatter": 0.5})
    return repzoo.load(path, provider="cpu", threads=1)


def load(make_package: Make, folder: Path, **parts: object) -> Encoder:
    return repzoo.load(make_package(folder, "other", **parts), provider="cpu", threads=1)


def normal(x: np.ndarray, mean: float, variance: float) -> np.ndarray:
    return np.exp(-0.5 * (x - mean) ** 2 / variance) / np.sqrt(2 * np.pi * variance)


@pytest.mark.parametrize("views", PRIORS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_content_agrees_with_numerical_integration(views: ViewModel, count: int) -> None:
    rng = np.random.default_rng(count)
    mean = rng.normal(0.4, 0.5, (count, 1)).astype(np.float32)
    variance = rng.uniform(0.01, 0.4, (count, 1)).astype(np.float32)
    psi, z = np.linspace(-6, 6, 1501), np.linspace(-6, 6, 1501)
    density = normal(psi, 0, 1) if views.precision else np.ones_like(psi)
    for mu, sigma2 in zip(mean[:, 0], variance[:, 0], strict=True):
        joint = normal(z[None], psi[:, None], views.scatter) * normal(z, mu, sigma2)[None]
        density = density * np.trapezoid(joint, z, axis=1)  # p(x_j | psi)
    density = density / np.trapezoid(density, psi)
    expected = np.trapezoid(psi * density, psi)
    spread = np.trapezoid((psi - expected) ** 2 * density, psi)
    got, got_variance = views.content(mean, variance)
    assert got.dtype == got_variance.dtype == np.float32
    assert got[0, 0] == pytest.approx(expected, abs=1e-4)
    assert got_variance[0, 0] == pytest.approx(spread, rel=1e-3)


@pytest.mark.parametrize("views", PRIORS)
def test_the_content_is_calibrated_for_data_from_the_model(views: ViewModel) -> None:
    rng = np.random.default_rng(0)
    things, dim = 4000, 3
    count = rng.integers(1, 6, things)
    rows = np.repeat(np.arange(things), count)
    rng.shuffle(rows)
    rows = group_rows(rows, len(rows))
    psi = rng.normal(0, 1 if views.precision else 30, (things, dim))
    variance = rng.uniform(0.01, 0.2, (len(rows), dim))
    z = psi[rows] + np.sqrt(views.scatter) * rng.normal(size=variance.shape)
    mean = z + np.sqrt(variance) * rng.normal(size=variance.shape)
    got, got_variance = views.content(mean.astype(np.float32), variance.astype(np.float32), rows)
    errors = (got - psi) / np.sqrt(got_variance)
    assert np.square(errors).mean() == pytest.approx(1, abs=0.04)
    assert (np.abs(errors) < 1.645).mean() == pytest.approx(0.9, abs=0.01)
    several = np.bincount(rows)
    assert got_variance[several == 5].mean() < 0.4 * got_variance[several == 1].mean()


def test_the_product_of_content_posteriors_is_safe_about_the_content() -> None:
    """The module's two error variances: about the content, and about a fresh view of the thing."""
    rng = np.random.default_rng(0)
    things, count, scatter = 40_000, 4, 0.3
    left_open = np.array([0.1, 0.4, 1.0, 0.2])  # c_j, what each image leaves open
    v = (left_open + scatter)[None].repeat(things, 0)  # [things, count]
    m = np.sqrt(left_open) * rng.normal(size=v.shape)  # psi = 0
    t = np.sqrt(scatter) * rng.normal(size=things)
    rows = np.repeat(np.arange(things), count)
    flat = (values.reshape(-1, 1).astype(np.float32) for values in (m, v))
    mean, variance = (values[:, 0] for values in product(*flat, rows))
    w = variance[0] / v[0]
    assert w.sum() == pytest.approx(1)
    assert mean.var() == pytest.approx(variance[0] - scatter * (w**2).sum(), rel=0.03)
    assert (mean - t).var() == pytest.approx(variance[0] + scatter * (1 - (w**2).sum()), rel=0.03)
    assert (np.abs(mean) < 1.645 * np.sqrt(variance)).mean() >= 0.9
    one, of_one = product(
        m[:, :1].astype(np.float32), v[:, :1].astype(np.float32), np.arange(things)
    )
    assert np.allclose(one, m[:, :1], atol=1e-6)
    assert (one[:, 0] - t).var() == pytest.approx(of_one[0, 0], rel=0.03)


def test_new_views_scatter_around_the_content() -> None:
    views = PRIORS[0]
    mean, variance = np.array([1, -2], np.float32), np.array([0.05, 0.5], np.float32)
    draw = {
        vary: views.sample(mean, variance, 20_000, 0, vary) for vary in ("both", "style", "content")
    }
    for vary, expected in (
        ("both", variance + 0.15),
        ("style", np.full(2, 0.15)),
        ("content", variance),
    ):
        assert draw[vary].dtype == np.float32
        assert np.abs(draw[vary].mean(0) - mean).max() < 0.03
        assert draw[vary].var(0) == pytest.approx(expected, rel=0.05)
    # Content and style are drawn apart from each other.
    assert np.allclose(draw["both"] - mean, draw["style"] + draw["content"] - 2 * mean, atol=1e-5)


def test_things_are_numbered_as_they_first_appear() -> None:
    assert group_rows(["b", "a", "b", 7], 4).tolist() == [0, 1, 0, 2]
    assert group_rows(np.array([5, 5, 3]), 3).tolist() == [0, 0, 1]
    for group in ([0], [0, 0, 0], [[0], [1]], 3):
        with pytest.raises(repzoo.InvalidInput, match="group"):
            group_rows(group, 2)  # type: ignore[arg-type]


def test_posterior_of_groups(encoder: Encoder) -> None:
    assert encoder.views == ViewModel(0.5, 0.0)
    single = encoder.posterior(PIXELS)
    fused = encoder.posterior(PIXELS, group="abacaca", batch_size=2)
    assert fused.mean.shape == fused.variance.shape == (3, 4)
    assert fused.uncertainty is None
    rows = [[0, 2, 4, 6], [1], [3, 5]]
    for row, of in enumerate(rows):
        weights = 1 / (single.variance[of] + 0.5)
        assert np.allclose(fused.variance[row], 1 / weights.sum(0), rtol=1e-5)
        expected = (weights * single.mean[of]).sum(0) / weights.sum(0)
        assert np.allclose(fused.mean[row], expected, atol=1e-5)
    assert encoder.posterior([], group=[]).mean.shape == (0, 4)


def test_generate_from_a_content(encoder: Encoder) -> None:
    one, again = (encoder.generate(3, content=PIXELS[:4], seed=1) for _ in range(2))
    assert one.images.shape == (3, 8, 8, 1)
    assert np.array_equal(one.images, again.images)
    assert np.array_equal(encoder.generate(9, content=PIXELS[:4], seed=1).latents[:3], one.latents)
    assert np.array_equal(encoder.generate(latents=one.latents).images, one.images)
    content = encoder.posterior(PIXELS[:4], group=[0] * 4)
    many = encoder.generate(20_000, content=PIXELS[:4], seed=0).latents
    assert np.abs(many.mean(0) - content.mean[0]).max() < 0.03
    assert many.var(0) == pytest.approx(content.variance[0] + 0.5, rel=0.05)


def test_style_and_content_can_be_varied_apart(encoder: Encoder) -> None:
    contents = encoder.posterior(PIXELS[:2], group=[0, 1]).mean
    styles = [
        encoder.generate(5, content=PIXELS[i], seed=3, vary="style").latents - contents[i]
        for i in (0, 1)
    ]
    assert np.allclose(*styles, atol=1e-6)  # row i has the same style for every content
    varied = encoder.generate(5000, content=PIXELS[0], seed=3, vary="content").latents
    assert varied.var(0) == pytest.approx(
        encoder.posterior(PIXELS[0], group=[0]).variance[0], rel=0.1
    )


def test_content_posteriors_are_fused_for_models_without_a_model_of_views(
    make_package: Make, tmp_path: Path
) -> None:
    encoder = load(make_package, tmp_path, posterior=False, content=True, uncertainty=True)
    single = encoder.posterior(PIXELS[:3])
    fused = encoder.posterior(PIXELS[:3], group=[1, 1, 0])
    assert fused.variance is None
    assert fused.uncertainty is None
    assert np.allclose(fused.mean, [single.mean[:2].mean(0), single.mean[2]], atol=1e-6)
    weights = 1 / single.content_variance[:2]
    assert np.allclose(fused.content_variance[0], 1 / weights.sum(0), rtol=1e-5)
    assert np.allclose(
        fused.content_mean[0],
        (weights * single.content_mean[:2]).sum(0) / weights.sum(0),
        atol=1e-5,
    )
    assert np.allclose(fused.content_variance[1], single.content_variance[2], rtol=1e-5)


def test_other_models_say_what_they_lack(
    make_package: Make, tmp_path: Path, encoder: Encoder
) -> None:
    plain = load(make_package, tmp_path)  # a posterior and a decoder, as a VAE has
    for call in (
        lambda: plain.posterior(PIXELS, group=range(7)),
        lambda: plain.generate(content=PIXELS),
    ):
        with pytest.raises(
            repzoo.UnsupportedOperation, match="models trained with SimVAE have one"
        ):
            call()
    blind = load(make_package, tmp_path / "blind", decoder=False, simvae={})
    with pytest.raises(repzoo.UnsupportedOperation, match="other has no decoder"):
        blind.generate(content=PIXELS)
    assert blind.posterior(PIXELS, group=[0] * 7).mean.shape == (1, 4)
    for wrong in (
        lambda: encoder.posterior(PIXELS, group=[0]),
        lambda: encoder.generate(content=[]),
        lambda: encoder.generate(0, content=PIXELS),
        lambda: encoder.generate(content=PIXELS, seed=-1),
        lambda: encoder.generate(content=PIXELS, vary="colour"),
        lambda: encoder.generate(content=PIXELS, latents=np.zeros(4)),
    ):
        with pytest.raises(repzoo.InvalidInput):
            wrong()
    with pytest.raises(repzoo.InvalidImage) as caught:
        encoder.generate(content=[PIXELS[0], b"no image"])
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"training": {"recipe": {"method": "simvae", "options": {}}}}, ViewModel(0.15, 0.0)),
        (
            {"training": {"recipe": {"method": "simvae", "options": {"prior": "normal"}}}},
            ViewModel(0.15, 1.0),
        ),
        ({"training": {"recipe": {"method": "vae", "options": {}}}}, None),
        ({"training": {"recipe": {"method": "simvae", "options": {"prior": "odd"}}}}, None),
        ({"training": {"recipe": {"method": "simvae", "options": {"scatter": -1}}}}, None),
        ({"training": {"recipe": {"method": "simvae", "options": {"scatter": "x"}}}}, None),
        ({"training": {"recipe": {"method": "simvae", "options": None}}}, None),
        ({"training": None}, None),
        ([], None),
    ],
)
def test_the_model_of_views_is_read_from_the_recipe(
    tmp_path: Path, record: object, expected: ViewModel | None
) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(record))
    assert read_view_model(tmp_path / "metrics.json") == expected
    (tmp_path / "metrics.json").write_text("{")
    assert read_view_model(tmp_path / "metrics.json") is None
    assert read_view_model(tmp_path / "missing.json") is None

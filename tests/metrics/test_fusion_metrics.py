import math

import numpy as np
import pytest

from thfuse_sam.metrics import METRICS, fusion_metrics

NAMES = ["EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "MS_SSIM", "CC", "PSNR", "Nabf"]


def test_values_come_under_the_usual_names_in_the_usual_order(large_triple):
    values = fusion_metrics(*large_triple)
    assert list(values) == list(METRICS) == NAMES
    assert all(type(value) is float and math.isfinite(value) for value in values.values())


def test_only_artefacts_are_better_when_lower():
    assert [name for name, metric in METRICS.items() if metric.better == "lower"] == ["Nabf"]


def test_each_value_is_its_metrics(triple):
    fused, infrared, visible = triple
    values = fusion_metrics(fused, infrared, visible)
    for name in METRICS:
        assert fusion_metrics(fused, infrared, visible, [name]) == pytest.approx({name: values[name]}, nan_ok=True)


def test_metrics_of_the_fused_image_alone_ignore_the_sources(triple):
    fused, infrared, visible = triple
    values, others = fusion_metrics(fused, infrared, visible), fusion_metrics(fused, fused, fused)
    changed = [name for name in NAMES if name != "MS_SSIM" and values[name] != others[name]]
    assert changed == ["MI", "SCD", "VIF", "Qabf", "SSIM", "CC", "PSNR", "Nabf"]


def test_sources_may_be_swapped(large_triple):
    fused, infrared, visible = large_triple
    assert fusion_metrics(fused, visible, infrared) == pytest.approx(fusion_metrics(fused, infrared, visible))


def test_equal_images_have_ideal_values(large_triple):
    image = large_triple.visible
    values = fusion_metrics(image, image, image)
    assert values["MI"] == pytest.approx(2 * values["EN"] * math.log(2))
    expected = {"VIF": 2, "SSIM": 2, "MS_SSIM": 1, "CC": 1, "PSNR": math.inf, "Nabf": 0, "SCD": 0}
    assert {name: values[name] for name in expected} == pytest.approx(expected)


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("flat", ["fused", "ir", "vi", "sources", "all"])
def test_constant_images_give_numbers(large_triple, level, flat):
    images = dict(zip(("fused", "ir", "vi"), large_triple, strict=True))
    for name in {"sources": ("ir", "vi"), "all": ("fused", "ir", "vi")}.get(flat, (flat,)):
        images[name] = np.full_like(images[name], level)
    values = fusion_metrics(**images)
    assert not [name for name, value in values.items() if math.isnan(value)]
    assert [name for name, value in values.items() if math.isinf(value)] == (["PSNR"] if flat == "all" else [])


def test_small_images_miss_only_what_is_undefined(triple):
    values = fusion_metrics(*(image[:12, :16] for image in triple))
    assert [name for name, value in values.items() if math.isnan(value)] == ["VIF", "MS_SSIM"]
    tiny = fusion_metrics(*(image[:2, 10:12] for image in triple))
    assert [name for name, value in tiny.items() if math.isnan(value)] == ["VIF", "SSIM", "MS_SSIM"]


def test_inputs_may_be_views_and_stay_as_they_are(triple):
    whole = np.stack(triple, axis=-1)
    before = whole.copy()
    views = (whole[..., index] for index in range(3))
    assert fusion_metrics(*views) == pytest.approx(fusion_metrics(*triple), nan_ok=True)
    assert np.array_equal(whole, before)


@pytest.mark.parametrize("name", ["fused", "ir", "vi"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image / 255, r"has dtype float64; metrics take uint8"),
        (lambda image: image.astype(np.int16), r"has dtype int16"),
        (lambda image: image > 5, r"has dtype bool"),
        (lambda image: image[:-1], r"has shape \(\d+, \d+\) but \w+ \(\d+, \d+\); .* one size"),
        (lambda image: np.stack([image] * 3, axis=-1), r"has shape \(44, 51, 3\); .* one grey channel"),
        (lambda image: image[None], r"has shape \(1, 44, 51\)"),
        (lambda image: image[:1], r"has shape \(1, 51\); .* at least 2 px"),
        (lambda image: image.tolist(), r"is a list; metrics take NumPy arrays"),
    ],
)
def test_unfit_images_are_refused(triple, name, change, message):
    images = dict(zip(("fused", "ir", "vi"), triple, strict=True))
    images[name] = change(images[name])
    with pytest.raises(ValueError, match=message) as error:
        fusion_metrics(**images)
    assert name in str(error.value)
    assert "\n" not in str(error.value)

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dmt_ray.method.metrics.pixels import psnr, ssim


def test_agree_with_scikit_image(pictures: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    noisy = np.clip(pictures + rng.normal(0, 12, pictures.shape), 0, 255).round().astype(np.uint8)
    a, b = (torch.tensor(x).permute(0, 3, 1, 2) for x in (pictures, noisy))
    for k, (one, other) in enumerate(zip(pictures, noisy, strict=True)):
        assert float(psnr(a, b)[k]) == pytest.approx(peak_signal_noise_ratio(one, other, data_range=255), abs=1e-3)
        theirs = structural_similarity(
            one, other, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
        )
        assert float(ssim(a, b)[k]) == pytest.approx(theirs, abs=1e-2)


def test_identical_pictures() -> None:
    a = torch.rand(2, 3, 32, 32) * 255
    assert psnr(a, a).tolist() == [100.0, 100.0]
    torch.testing.assert_close(ssim(a, a), torch.ones(2))

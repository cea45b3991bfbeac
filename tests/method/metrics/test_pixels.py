import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

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


@pytest.mark.parametrize("shape", [(11, 12), (64, 80)])
def test_ssim_agrees_with_torchmetrics_in_double_precision(shape: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    a = (torch.rand(3, 3, *shape, generator=random) * 255).round()
    b = (a + torch.randn(a.shape, generator=random) * torch.tensor([1.0, 20.0, 90.0])[:, None, None, None]).clamp(
        0, 255
    )
    theirs = structural_similarity_index_measure(a.double(), b.double(), data_range=255.0, reduction="none")
    torch.testing.assert_close(ssim(a, b).double(), theirs.reshape(-1), atol=2e-6, rtol=0)
    flat = torch.full((1, 3, *shape), 200.0)
    assert float(ssim(flat, flat - 100)) == pytest.approx(0.8, abs=1e-3)  # luminance alone

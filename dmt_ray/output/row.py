"""One row of the output, as a dataclass with the columns of ``ROW_SCHEMA``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a row says of an image at one step; docs/output.md tells what each column means. None is null."""

    id: str
    uri: str
    step: int | None = None
    strength: float | None = None
    status: str | None = None
    error_type: str | None = None
    error: str | None = None
    attempts: int | None = None
    image: bytes | None = None
    image_sha256: str | None = None
    image_format: str | None = None
    width: int | None = None
    height: int | None = None
    digital_source_type: str | None = None
    animation: bytes | None = None
    displacement: bytes | None = None
    budget_weight: float | None = None
    rbf_variance: float | None = None
    displacement_norm: float | None = None
    witness_before: float | None = None
    witness_after: float | None = None
    feature_loss_before: float | None = None
    feature_loss_after: float | None = None
    iterations: int | None = None
    psnr_to_input: float | None = None
    ssim_to_input: float | None = None
    lpips_to_input: float | None = None
    colorfulness: float | None = None
    confidence: float | None = None
    verdict_before: float | None = None
    verdict_after: float | None = None
    flipped: bool | None = None
    seconds_read: float | None = None
    seconds_traverse: float | None = None
    seconds_reconstruct: float | None = None
    worker: str | None = None
    device: str | None = None
    weights: str | None = None
    input_sha256: str | None = None
    frames: int | None = None
    truncated: bool | None = None
    warning: str | None = None

"""The row of a result: its picture in the output's format, what goes beside the pixels, and its figures."""

from __future__ import annotations

import logging
from dataclasses import replace

from dmt_ray import __version__
from dmt_ray.jobs.job import Editor, JobConfig
from dmt_ray.jobs.registry import job_of
from dmt_ray.method.displacement import Edit
from dmt_ray.method.metrics.pixels import colorfulness
from dmt_ray.output.row import Row
from dmt_ray.pipeline.staged_images import SourceImage
from dmt_ray.storage.deep_images import DEEP_FORMATS, decode_image16
from dmt_ray.storage.images import encode_animation, encode_image
from dmt_ray.storage.metadata import Beside, beside_pixels
from dmt_ray.storage.provenance import Provenance

logger = logging.getLogger(__name__)


class ResultRows:
    """Makes the rows of results.

    Parameters:
        editor: the job's, as ``make_editor`` returns it.
        config: the run's options.
        fingerprint: of the run's settings; goes into every result's file.
    """

    def __init__(self, editor: Editor, config: JobConfig, fingerprint: str) -> None:
        self._editor, self._config = editor, config
        self._provenance = Provenance(config.job, job_of(config).digital_source_type, fingerprint, __version__)

    def deepen(self, source: SourceImage) -> None:
        """Take the photo with all its bits where results of 16 bits are asked for; the method saw 8 of them."""
        output = self._config.output
        if output.image_format in DEEP_FORMATS and output.resolution == "native":
            data, rgb, metadata = source.data, source.rgb, source.metadata
            assert data is not None
            assert rgb is not None
            assert metadata is not None
            source.rgb = decode_image16(data, rgb, metadata)

    def with_picture(self, row: Row, source: SourceImage, edit: Edit) -> Row:
        """Return the row of one step of an image, with its picture and its figures."""
        output = self._config.output
        verdict = edit.verdict
        assert source.rgb is not None
        picture = self._editor.assemble(source.rgb, edit, source.mask)
        height, width = picture.shape[:2]
        beside = self._beside(source, height, width)
        return replace(
            row,
            image=encode_image(picture, output.image_format, output.image_quality, beside.attached),
            image_format=output.image_format,
            width=width,
            height=height,
            digital_source_type=beside.digital_source_type,
            feature_loss_before=edit.feature_loss_before,
            feature_loss_after=edit.feature_loss_after,
            iterations=edit.iterations,
            psnr_to_input=edit.similarity.psnr,
            ssim_to_input=edit.similarity.ssim,
            lpips_to_input=edit.similarity.lpips,
            colorfulness=colorfulness(edit.picture),
            verdict_before=None if verdict is None else verdict.before,
            verdict_after=None if verdict is None else verdict.after,
            flipped=None if verdict is None else verdict.flipped,
            animation=encode_animation(edit.frames, output.path_format, attached=beside.animation)
            if edit.frames
            else None,
            warning=beside.warning,
        )

    def _beside(self, source: SourceImage, height: int, width: int) -> Beside:
        """Return what goes beside the pixels of all results of an image, which are of one size."""
        if source.beside is None:
            output, metadata = self._config.output, source.metadata
            assert metadata is not None
            source.beside = beside_pixels(
                metadata, self._provenance, width, height, output.image_format, keep=output.metadata == "keep"
            )
            if source.beside.warning is not None:
                logger.warning("%s: %s", source.row.id, source.beside.warning)
        return source.beside

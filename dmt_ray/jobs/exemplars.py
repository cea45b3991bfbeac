"""Sets of exemplars: drawn, checked, identified by their content, and read for a job to learn from."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from dmt_ray.errors import DmtError, SettingsError
from dmt_ray.jobs.exemplar_sets import none_usable
from dmt_ray.jobs.job import Array, Editor, ExemplarList, ExemplarPictures, JobConfig, Measures
from dmt_ray.jobs.judging import JudgedPictures, JudgeModel, JudgeReport, make_judge
from dmt_ray.jobs.networks import make_network
from dmt_ray.jobs.registry import job_of
from dmt_ray.method.networks.backbone import BACKBONES
from dmt_ray.method.networks.normalisation import ActivationMeans, normalised
from dmt_ray.method.pictures import to_tensor
from dmt_ray.method.traversal.balancing import NEGLIGIBLE
from dmt_ray.method.traversal.selection import ImageIdentity
from dmt_ray.storage.images import decode_image
from dmt_ray.storage.inputs.listing import InputItem
from dmt_ray.storage.inputs.reader import InputReader
from dmt_ray.storage.models.manifolds import open_arrays
from dmt_ray.storage.threads import reading_threads

logger = logging.getLogger(__name__)

#: The sets of exemplars, by the option that names each.
ExemplarSets = Mapping[str, ExemplarList]

#: Threads that read and decode beside the model; reading from an object store is mostly waiting.
READER_THREADS = 4
#: Exemplars that are read and decoded before the network asks for them.
_READ_AHEAD = 32
#: More than this share of a class's weight is not lost without a warning.
_LOST_WEIGHT = 1e-3


@dataclass(frozen=True)
class LearnReport:
    """What there is to tell of how a run learned from its exemplars."""

    skipped: list[str]
    """One sentence for each exemplar that was left out."""
    judge: JudgeReport | None = None
    """Of a judge that was fitted to the exemplars or tried on them."""


def list_exemplars(config: JobConfig) -> ExemplarSets:
    """List the sets of exemplars; none where they come as a saved manifold.

    Raises:
        SettingsError: a set is empty or cannot be listed; names the option.
    """
    job = job_of(config)
    return {} if job.saved_manifold(config) is not None else job.list_exemplars(config)


def check_exemplars(config: JobConfig, sets: ExemplarSets) -> None:
    """Decode exemplars of each set until one can be used: enough to know that there are some, before Ray starts.

    Raises:
        SettingsError: a set has none.
    """
    job = job_of(config)
    for option, found in sets.items():
        first: str | None = None
        reader = InputReader(config.inputs.max_bytes, found.containers, config.inputs.allow_uri)
        for item in found.items:
            try:
                job.check_exemplar(option, decode_image(reader.read_item(item), max_pixels=config.inputs.max_pixels))
                break
            except DmtError as error:
                first = first or f"{item.id}: {error}"
        else:
            raise _none_left(option, found, first)


def content_checksum(config: JobConfig, option: str, found: ExemplarList) -> str:
    """Return the SHA-256 of what a run learns from a set: ids, encoded bytes, groups, attributes, balance columns.

    An exemplar that cannot be read counts as such, since learning leaves it out.

    Parameters:
        config: the run's options.
        option: the option that names the set.
        found: the set.
    """
    job = job_of(config)
    reader = InputReader(config.inputs.max_bytes, found.containers, config.inputs.allow_uri)

    def fingerprint(item: InputItem) -> str:
        try:
            data = reader.read_item(item)
            identity = job.exemplar_identity(option, item, data, config, reader)
        except DmtError:
            return f"{item.id}\nunreadable\n"
        attributes = "" if identity.attributes is None else identity.attributes.tolist()
        return f"{item.id}\n{hashlib.sha256(data).hexdigest()}\n{identity.group}\n{attributes}\n"

    digest = hashlib.sha256()
    with reading_threads(READER_THREADS) as threads:
        for start in range(0, len(found.items), _READ_AHEAD):
            for text in threads.map(fingerprint, found.items[start : start + _READ_AHEAD]):
                digest.update(text.encode())
    if found.balance_values is not None:  # these decide the weights
        digest.update(repr(found.balance_values.tolist()).encode())
    return digest.hexdigest()


def learn_exemplars(
    arrays: Mapping[str, Array],
    sets: ExemplarSets,
    config: JobConfig,
    device: str,
    judge: JudgeModel | None = None,
    on_read: Callable[[int], None] = lambda read: None,
) -> tuple[dict[str, Array], LearnReport]:
    """Read the exemplars and make what all actors share, or open it where it is saved.

    Parameters:
        arrays: weights by torchvision name.
        sets: the exemplars.
        config: the run's options.
        device: torch device.
        judge: what the run's judge is made from; it learns from the same reading of the exemplars.
        on_read: gets the number of exemplars that were read, after each of them.

    Raises:
        SettingsError: none of a set can be used.
        StorageError: the saved manifold is missing or damaged.
    """
    job = job_of(config)
    place = job.saved_manifold(config)
    if place is not None:
        return open_arrays(place)[1], LearnReport([])
    means: dict[str, Array] = {}
    if config.model.normalise:
        means = _activations(arrays, sets, config, device)
        arrays = normalised(arrays, config.model.backbone, means)
    loader = ExemplarLoader(sets, config, on_read)
    judged = None if judge is None else JudgedPictures(loader, judge, device)
    exemplars = job.learn(make_network(arrays, config, device, job.layers(config)), judged or loader, config) | means
    if judged is None:
        return exemplars, LearnReport(loader.skipped)
    probe, report = judged.judge(exemplars.get("exemplar_weights"))
    return exemplars | probe, LearnReport(loader.skipped, report)


def make_editor(
    arrays: Mapping[str, Array],
    exemplars: Mapping[str, Array],
    config: JobConfig,
    device: str,
    lpips: Mapping[str, Array] | None = None,
    judge: JudgeModel | None = None,
) -> Editor:
    """Build the job's editor on a device.

    Parameters:
        arrays: weights by torchvision name.
        exemplars: what ``learn_exemplars`` returned.
        config: the run's options.
        device: torch device.
        lpips: what LPIPS to the input is measured with; None leaves it out.
        judge: what the judge is made from; None gives no verdicts.
    """
    if config.model.normalise:
        arrays = normalised(arrays, config.model.backbone, exemplars)
    measures = Measures(lpips, make_judge(judge, exemplars, config, device))
    return job_of(config).editor(arrays, exemplars, config, device, measures)


class ExemplarLoader(ExemplarPictures):
    """Reads sets of exemplars at working size, and notes what is wrong with those that it leaves out.

    Parameters:
        sets: the exemplars.
        config: the run's options.
        on_read: gets the number of exemplars that were read, after each of them.
    """

    def __init__(
        self, sets: ExemplarSets, config: JobConfig, on_read: Callable[[int], None] = lambda read: None
    ) -> None:
        self.sets, self.config = sets, config
        self._on_read, self._read = on_read, 0
        self.skipped: list[str] = []
        """One sentence for each exemplar that was left out."""
        self.unread: list[InputItem] = []
        """Those of them whose bytes could not be had, in any order."""
        self._job = job_of(config)
        self._readers = {
            option: InputReader(config.inputs.max_bytes, found.containers, config.inputs.allow_uri)
            for option, found in sets.items()
        }

    @property
    def count(self) -> int:
        """Exemplars of all sets, usable or not."""
        return sum(len(found.items) for found in self.sets.values())

    def pictures(self, option: str) -> Iterator[tuple[Array, ImageIdentity]]:
        """Yield a set's pictures (see ``Job.working``) and what is known of them; none for a set that is not given.

        Raises:
            SettingsError: there are items, and none can be used, or none of those that have weight.
        """
        found = self.sets.get(option)
        if found is None:
            return
        count, lost, first = 0, 0.0, None
        weights = [None] * len(found.items) if found.balance is None else found.balance.weights.tolist()
        with reading_threads(READER_THREADS) as threads:
            for start in range(0, len(found.items), _READ_AHEAD):
                part = slice(start, start + _READ_AHEAD)
                read = threads.map(lambda item: self._load(option, item), found.items[part])
                for weight, loaded in zip(weights[part], read, strict=True):
                    self._read += 1
                    self._on_read(self._read)
                    if isinstance(loaded, str):
                        self.skipped.append(loaded)
                        first = first or loaded
                        lost += weight or 0.0
                    else:
                        count += 1
                        yield loaded[0], replace(loaded[1], weight=weight)
        if not count:
            raise _none_left(option, found, first)
        if lost > 1 - NEGLIGIBLE:
            raise SettingsError(
                f"All {option}s that count once the classes are balanced had to be left out; the first one: {first}"
            )
        if lost > _LOST_WEIGHT:
            logger.warning(
                "The %ss that were left out had %.2g%% of the weight in the balance of the classes; the others keep "
                "their weights among themselves, so their means differ from those recorded.",
                option,
                100 * lost,
            )

    def _load(self, option: str, item: InputItem) -> tuple[Array, ImageIdentity] | str:
        reader = self._readers[option]
        try:
            data = reader.read_item(item)
        except DmtError as error:
            self.unread.append(item)
            return f"{item.id}: {error}"
        try:
            rgb = decode_image(data, max_pixels=self.config.inputs.max_pixels)
            picture = self._job.working(rgb, self.config)
            self._job.check_exemplar(option, picture)
            return picture, self._job.exemplar_identity(option, item, data, self.config, reader)
        except DmtError as error:
            return f"{item.id}: {error}"


def _activations(arrays: Mapping[str, Array], sets: ExemplarSets, config: JobConfig, device: str) -> dict[str, Array]:
    """Return the mean activation of every filter over all exemplars."""
    taps = BACKBONES[config.model.backbone].taps
    deepest = max(taps.index(tap) for tap in config.model.taps)
    network = make_network(arrays, config, device, also=taps[: deepest + 1])
    loader = ExemplarLoader(sets, config)
    means = ActivationMeans(network, taps[: deepest + 1])
    for picture, _ in chain.from_iterable(loader.pictures(option) for option in sets):
        means.add(to_tensor(picture)[None])
    return means.arrays()


def _none_left(option: str, found: ExemplarList, first: str | None) -> SettingsError:
    return SettingsError(none_usable(len(found.items), option, first))

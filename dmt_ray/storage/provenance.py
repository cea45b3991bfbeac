"""What a result says of how it came to be: a term of the IPTC's vocabulary, the program, and the run."""

from __future__ import annotations

from dataclasses import dataclass

#: Where the terms are defined; a term's URI is this with the term behind it.
VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

#: Terms of pictures that a generative model had a part in, rising in how much of the picture it made.
_GENERATIVE = ("compositeWithTrainedAlgorithmicMedia", "compositeSynthetic", "trainedAlgorithmicMedia")


@dataclass(frozen=True)
class Provenance:
    """How the results of a run came to be."""

    job: str
    """As in ``dmt-ray NAME``."""
    digital_source_type: str
    """Term of the IPTC's vocabulary for what the job does to a photo."""
    fingerprint: str
    """Of the run's settings."""
    version: str
    """Of the program."""

    @property
    def program(self) -> str:
        """Name and version of the program."""
        return f"dmt_ray {self.version}"

    @property
    def parameters(self) -> str:
        """Job and run, in words."""
        return f"{self.job}, run {self.fingerprint}"

    def source_type_of(self, earlier: str | None) -> str:
        """Return the term for a result of an input that has a term already.

        A picture does not become less synthetic by an edit: the input's own term stays where it says more.
        """
        own = self.digital_source_type
        if earlier not in _GENERATIVE or (own in _GENERATIVE and _GENERATIVE.index(own) > _GENERATIVE.index(earlier)):
            return own
        return earlier

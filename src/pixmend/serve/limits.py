"""How much of everything a server gives away."""

from dataclasses import dataclass, fields

from pixmend.errors import SettingsError
from pixmend.images import FORMATS


@dataclass(frozen=True)
class Limits:
    """Bounds on requests; each is an option of `pixmend serve`.

    Attributes
    ----------
    body_mib
        Of a request's body, counted as it comes in, whatever it says of its length.
    pixels
        Of an image or mask, read off its header before anything is decoded.
    candidates, steps, seconds
        What one request may ask for.
    queue
        Requests for completions inside the server at a time, from the first byte to the last; one more is refused.
    streams
        Of these, searches that are watched.
    deadline
        Seconds from a request's arrival: one still waiting by then is refused, a search still running ends with its best so far.
    batch, batch_wait_ms
        Requests completed together, and for how long the first of them waits for others.
    drain
        Seconds after SIGTERM for what is inside.
    formats
        Names of the image formats that are opened.
    """

    body_mib: float = 16
    pixels: int = 4_000_000
    candidates: int = 16
    steps: int = 5000
    seconds: float = 60
    queue: int = 64
    streams: int = 8
    deadline: float = 120
    batch: int = 16
    batch_wait_ms: float = 5
    drain: float = 30
    formats: tuple[str, ...] = FORMATS

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises
        ------
        SettingsError
            A value out of range, or a format that is not known.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0.0 if field.name in ("batch_wait_ms", "drain") else 1.0
            if field.name == "body_mib":
                least = 1 / 1024
            if not isinstance(value, tuple) and not least <= value < 1e9:
                raise SettingsError(f"{field.name} = {value}: needs a number of at least {least:g}")
        if self.candidates > 64:
            raise SettingsError(f"candidates = {self.candidates}: no more than 64")
        unknown = set(self.formats) - set(FORMATS)
        if unknown or not self.formats:
            named = ", ".join(sorted(unknown)) or "none"
            raise SettingsError(f"formats = {named}: needs some of {', '.join(FORMATS)}")

    @property
    def body(self) -> int:
        """Bytes of a body."""
        return int(self.body_mib * 2**20)

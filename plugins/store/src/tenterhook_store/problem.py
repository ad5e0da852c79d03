"""What is wrong with something that a store keeps."""

import attrs


@attrs.frozen
class Problem:
    """One thing in a run that is not as its plan and its commit records say."""

    unit: int | None
    """The unit that it concerns; `None` where it is the run as a whole."""

    file: str
    """The file or object, as people find it."""

    cause: str
    """What is wrong with it."""

    def __str__(self) -> str:
        where = "" if self.unit is None else f"unit {self.unit}: "
        return f"{where}{self.file}: {self.cause}"

"""The checker's findings, in words."""

from dataclasses import dataclass, field

from adet_iuq.errors import UserError

SHOWN = 5  # number of examples that are shown per problem

# The kinds of findings whose images or annotations are left out of training and evaluation.
LEFT_OUT = (
    "incomplete image entry",
    "two images with one id",
    "image without a size",
    "annotation of an unknown image",
    "annotation listed twice",
    "segmentation without any part of three points",
    "broken run-length mask",
    "mask without area",
)


@dataclass
class Problem:
    """All findings of one kind.

    Attributes:
        kind: a short name, such as "unknown category".
        advice: what to do about it.
        fatal: whether training must not start.
        count: the number of findings.
        examples: the first few findings, each with file and annotation id.
    """

    kind: str
    advice: str
    fatal: bool
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def text(self) -> str:
        """One line, followed by one line per example."""
        lines = [f"{'FATAL' if self.fatal else 'warning'}: {self.kind} ({self.count}). {self.advice}"]
        lines += [f"    {example}" for example in self.examples]
        if self.count > len(self.examples):
            lines.append(f"    ... and {self.count - len(self.examples)} more")
        return "\n".join(lines)


@dataclass
class Report:
    """The verdict on one data set.

    Attributes:
        json_file: the path of the checked file.
        image_root: the folder of its images.
        images: the number of images that the file lists.
        annotations: the number of annotations that the file lists.
        usable: the number of annotations that can be trained on.
        ids_serve: whether an evaluator can use the annotations' ids.
        mended: whether the usable content differs from the file's in more than names of images.
        folders: the folders that hold the images (absolute), with their `folder_time` before the check.
        problems: the problems by kind.
    """

    json_file: str
    image_root: str
    images: int = 0
    annotations: int = 0
    usable: int = 0
    ids_serve: bool = True
    mended: bool = False
    folders: dict[str, int] = field(default_factory=dict)
    problems: dict[str, Problem] = field(default_factory=dict)

    @property
    def fatal(self) -> bool:
        """Whether training on the data set must not start."""
        return any(problem.fatal for problem in self.problems.values())

    def add(self, kind: str, example: str, advice: str, fatal: bool = False) -> None:
        """Counts a finding. All findings of one kind share the advice."""
        problem = self.problems.setdefault(kind, Problem(kind, advice, fatal))
        problem.fatal |= fatal
        problem.count += 1
        if len(problem.examples) < SHOWN:
            problem.examples.append(printable(example))

    def text(self) -> str:
        """The whole report, fatal problems first."""
        head = printable(
            f"{self.json_file} with images in {self.image_root}: {self.images} images, {self.annotations} annotations, "
            f"{self.usable} of them usable."
        )
        ordered = sorted(self.problems.values(), key=lambda problem: not problem.fatal)
        return "\n".join([head, *(problem.text() for problem in ordered)])

    @property
    def left_out(self) -> str:
        """The kinds of things that training and evaluation leave out, in words; empty if they use everything."""
        kinds = (self.problems[kind] for kind in LEFT_OUT if kind in self.problems)
        return ", ".join(f"{problem.count} x {problem.kind}" for problem in kinds)

    def raise_if_fatal(self) -> None:
        """Raises a UserError with the report's text if anything is fatal."""
        if self.fatal:
            raise UserError(f"The data set cannot be used.\n{self.text()}")


def printable(text: str) -> str:
    """The text with escapes for halves of surrogate pairs, which JSON allows but terminals and log files do not."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")

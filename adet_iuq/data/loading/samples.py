"""Makes one training sample: its seed, its record, the mapper's result, and another image if that fails."""

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import Dataset

from adet_iuq.data.images.reading import unreadable
from adet_iuq.data.loading.registries import Mapper
from adet_iuq.data.loading.sampler import IndexPair
from adet_iuq.data.loading.workers import WorkerBoard
from adet_iuq.data.seeding import derive_seed, seeded
from adet_iuq.errors import UserError
from adet_iuq.registry import callable_name

logger = logging.getLogger(__name__)

_SUBSTITUTE = 1  # the purpose of a derived seed
_MOST_ATTEMPTS = 1000  # attempts at one sample


class Failure:
    """Carries a UserError from a worker to the process; torch would bury its message in a traceback."""

    def __init__(self, message: str) -> None:
        self.message = message


def unwrapped(loader: Iterable[Any]) -> Iterator[list[dict[str, Any]]]:
    """The batches of a loader whose samples may be `Failure`s.

    Raises:
        UserError: a sample is a `Failure`.
    """
    for batch in loader:
        for sample in batch:
            if isinstance(sample, Failure):
                raise UserError(sample.message)
        yield batch


class TrainingSamples(Dataset):
    """Maps (position in the data set, global sample number) to a mapped sample, or to a `Failure`.

    The mapper gets a record with `sample_index` and `sample_seed`, and the global random generators are seeded, so that
    any mapper's draws depend on the sample alone; see `SampleMapper`.

    Args:
        records: a sequence that makes a new record at each access.
        mapper: any mapper, including detectron2's.
        seed: the seed of the run.
        skip: the number of unreadable images that each worker may replace by others.
        board: the board on which workers note what they read.
    """

    def __init__(self, records: Any, mapper: Mapper, seed: int, skip: int, board: WorkerBoard) -> None:
        self.records, self.mapper, self.seed, self.skip = records, mapper, seed, skip
        self.board = board
        self._unreadable: set[str] = set()

    def __getitem__(self, pair: IndexPair) -> dict[str, Any] | Failure:
        index, sample_index = pair
        sample_seed = derive_seed(self.seed, sample_index)
        for attempt in itertools.count(1):
            record = self.records[index]
            numbers = {"image_id": record["image_id"], "sample_index": sample_index, "sample_seed": sample_seed}
            record.update(numbers)
            sample = self._mapped(record, record.get("file_name", f"record {index}"), sample_seed)
            if isinstance(sample, Failure):
                return sample
            if sample is not None:
                return {**numbers, **sample}
            if attempt == _MOST_ATTEMPTS:
                break
            index = derive_seed(sample_seed, _SUBSTITUTE, attempt) % len(self.records)
        return Failure(f"{attempt} images in a row gave no sample; look at the mapper, {callable_name(self.mapper)}.")

    def _mapped(self, record: dict[str, Any], name: str, seed: int) -> dict[str, Any] | Failure | None:
        """The mapped record; None if another image must replace this one."""
        self.board.begin(name)
        try:
            with seeded(seed):
                return self.mapper(record)
        except Exception as error:
            # A foreign mapper may report an unreadable image by any exception.
            clear = error if isinstance(error, UserError) else unreadable(record)
            if clear is None:
                raise RuntimeError(f"While preparing {name}: {type(error).__name__}: {error}") from error
            self._unreadable.add(name)
            if len(self._unreadable) > self.skip:
                return Failure(f"{clear} GUARD.SKIP_CORRUPT_IMAGES N lets a training replace up to N such images.")
            logger.warning("%s Another image takes its place.", clear)
            return None
        finally:
            self.board.end()

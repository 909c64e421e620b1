"""The loader for testing."""

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from torch.utils.data import DataLoader

from adet_iuq.data.images.reading import unreadable
from adet_iuq.data.loading.evaluation_mapper import EvaluationMapper
from adet_iuq.data.loading.registries import Mapper
from adet_iuq.data.loading.samples import Failure, unwrapped
from adet_iuq.data.loading.workers import WorkerBoard
from adet_iuq.data.registration.datasets import load_dataset, register_datasets
from adet_iuq.errors import UserError


class EvaluationLoader:
    """detectron2's test loader (batches of one, this rank's share), with errors that name the file."""

    def __init__(self, loader: DataLoader, board: WorkerBoard) -> None:
        self._loader, self._board = loader, board

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        try:
            yield from unwrapped(self._loader)
        except (RuntimeError, ConnectionError, EOFError) as error:
            explained = self._board.explain(error)
            if explained is None:
                raise
            raise explained from error


class GuardedMapper:
    """A mapper for evaluation; an unreadable image becomes a `Failure` that names it."""

    def __init__(self, mapper: Mapper, board: WorkerBoard) -> None:
        self._mapper, self._board = mapper, board

    def __call__(self, record: dict[str, Any]) -> Any:
        self._board.begin(record["file_name"])
        try:
            return self._mapper(record)
        except Exception as error:
            clear = error if isinstance(error, UserError) else unreadable(record)
            return Failure(str(clear or f"Image {record['file_name']} cannot be used: {error}"))
        finally:
            self._board.end()


def build_test_loader(cfg: CfgNode, name: str, *, mapper: Mapper | None = None) -> EvaluationLoader:
    """The loader of one data set for evaluation: batches of one image, with `image_id` as in the JSON file.

    Args:
        cfg: the whole config.
        name: the name of the data set.
        mapper: the function that turns a record into the model's input; None: `EvaluationMapper`.

    Raises:
        UserError: the data set is unknown or cannot be read. While it is iterated: an image cannot be read.
    """
    register_datasets(cfg)
    workers = cfg.DATALOADER.NUM_WORKERS
    board = WorkerBoard(workers)
    mapper = EvaluationMapper(cfg) if mapper is None else mapper
    loader = build_detection_test_loader(
        dataset=load_dataset(name), mapper=GuardedMapper(mapper, board), num_workers=workers
    )
    return EvaluationLoader(loader, board)

"""Numbers that objects keep from frame to frame, by ByteTrack in the version of supervision's authors."""

import numpy as np
import numpy.typing as npt
import supervision as sv

from adet_iuq.errors import UserError

FLOOR = 0.5  # share of the score threshold from which detections may continue a track; they do not start one


class Tracker:
    """Gives the detections of one video, frame after frame, a `tracker_id`. Detections without a track are left out.

    An object gets its number in the second frame that shows it, so a detection that appears only once gets none.

    Args:
        rate: the number of frames per second.
        score_threshold: the lowest score of a detection that starts a track.

    Raises:
        UserError: the package trackers is not installed.
    """

    def __init__(self, rate: float, score_threshold: float) -> None:
        try:
            from trackers import ByteTrackTracker
        except ImportError as error:
            raise UserError(
                "Tracking needs the package trackers, where supervision's ByteTrack is now: pip install 'adet-iuq[track]' "
                "(here: pip install -e '.[track]')"
            ) from error
        self._tracker = ByteTrackTracker(
            frame_rate=rate,
            track_activation_threshold=score_threshold,
            high_conf_det_threshold=score_threshold,
            minimum_consecutive_frames=1,
        )

    def __call__(self, detections: sv.Detections) -> sv.Detections:
        """The tracked detections of the next frame."""
        found: sv.Detections = self._tracker.update(detections)
        if found.tracker_id is not None and (found.tracker_id >= 0).any():
            return _chosen(found, found.tracker_id >= 0)
        # The tracker's own empty result has neither masks nor names.
        nothing = _chosen(detections, np.zeros(len(detections), dtype=np.bool_))
        nothing.tracker_id = np.zeros(0, dtype=np.int64)
        return nothing


def _chosen(detections: sv.Detections, which: npt.NDArray[np.bool_]) -> sv.Detections:
    chosen = detections[which]
    assert isinstance(chosen, sv.Detections)
    return chosen

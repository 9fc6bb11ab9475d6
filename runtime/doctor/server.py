"""Whether a server gives right poses: those of a picture of the built-in scene, against the same bundle's here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sharpose.bundle import Bundle, open_bundle, shipped_bundle
from sharpose.errors import ServerError, ServerRefusedError, counted
from sharpose.runtime.doctor.findings import Finding
from sharpose.runtime.doctor.poses import LEAST_OKS, PICTURE, both_poses, least_oks
from sharpose.runtime.remote.estimator import RemotePoseEstimator
from sharpose.runtime.result import PoseResult
from sharpose.scene import Scene, SceneFrame
from sharpose.serving.client.address import Credentials, ServerAddress
from sharpose.serving.client.client import PoseClient
from sharpose.serving.client.connection import NO_WAY_THERE
from sharpose.serving.contract import ServedModel, bundle_sha256

SERVER = "server"
"""In `Finding.needed_by`."""

_COUNT_SECONDS = 2.0  # for the question how many requests the server has answered
_MEND = "see the server's log; a model whose process has died comes back with a restart of the server"


@dataclass(frozen=True)
class _Answer:
    """What came of a request: a coarse and a refined pose of everybody in the picture."""

    model: ServedModel
    poses: PoseResult
    milliseconds: float


def check_server(server: str, bundle: Path | None, credentials: Credentials, *, timeout: float) -> Iterator[Finding]:
    """Whether a server is there and computes both stages, and whether its poses are those of the same bundle here.

    One that is too busy for this request, but answers others meanwhile, is found too.

    Args:
        server: Its address.
        bundle: What it must serve, and is compared with; if None, the shipped bundle where it serves that.
        credentials: What it wants to see.
        timeout: Seconds for contact and answer together.

    Raises:
        SharposeError: the address, a file or the bundle can't be used.
    """
    address, name = ServerAddress.parse(server), "server"
    opened = open_bundle(shipped_bundle() if bundle is None else bundle)
    frame = Scene(PICTURE).frame(0)
    asking: list[RemotePoseEstimator] = []
    client, answered = PoseClient(server, credentials), list[int | None]()

    def ask() -> _Answer:
        answered.append(client.answered(_COUNT_SECONDS))
        with RemotePoseEstimator(
            server,
            bundle=bundle,
            token=credentials.token,
            ca=credentials.ca,
            certificate=credentials.certificate,
            timeout=timeout,
            tries=1,
        ) as estimator:
            asking.append(estimator)
            poses = both_poses(estimator, frame)
            (milliseconds,) = estimator.statistics.snapshot().durations.percentiles(50)
            return _Answer(estimator.served, poses, milliseconds)

    try:
        answer = _within(timeout, ask)
    except TimeoutError:
        for estimator in asking:
            estimator.close()
        what, remedy = ("poses", _MEND) if asking else ("answer", f"{NO_WAY_THERE}; or give a longer --timeout")
        text = f"{address}: no {what} within {timeout:g} s"
        before, now = answered[0] if asking else None, client.answered(_COUNT_SECONDS) if asking else None
        if before is not None and now is not None and now > before:
            others = counted(now - before, "request")
            text = f"{address}: busy, no poses within {timeout:g} s, but it answered {others} of others; not compared"
            yield Finding(name, True, text, needed_by=frozenset({SERVER}))
            return
        yield Finding(name, False, text, remedy, frozenset({SERVER}))
        return
    except ServerError as error:
        refused = isinstance(error, ServerRefusedError)
        yield Finding(name, False, error.found, error.remedy or (None if refused else _MEND), frozenset({SERVER}))
        return
    model = answer.model
    height, width = model.crop_size
    text = (
        f"{address}: bundle {model.bundle_sha256[:12]}, {model.skeleton.name}, crops {height}x{width}, "
        f"max batch {model.max_batch}"
    )
    yield Finding(name, True, text, needed_by=frozenset({SERVER}))
    yield _compared(answer, frame, opened)


def _within(seconds: float, call: Callable[[], _Answer]) -> _Answer:
    """The result of a call that may hang, as looking up a name does; raises `TimeoutError` where it doesn't come."""
    results: list[_Answer | Exception] = []

    def run() -> None:
        try:
            results.append(call())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, name="ask the server", daemon=True)
    thread.start()
    thread.join(seconds)
    if not results:
        raise TimeoutError
    if isinstance(results[0], Exception):
        raise results[0]
    return results[0]


def _compared(answer: _Answer, frame: SceneFrame, opened: Bundle) -> Finding:
    """How alike the server's poses are to those of the same bundle here."""
    name, needed = "poses", frozenset({SERVER})
    people = len(frame.boxes_xyxy)
    refined = answer.poses.refined.tolist()
    if refined != [False] * people + [True] * people:
        return Finding(name, False, f"expected the second half to be refined, as asked, got {refined}", _MEND, needed)
    what = f"{counted(people, 'person')}, coarse and refined, in {answer.milliseconds:.1f} ms"
    if answer.model.bundle_sha256 != bundle_sha256(opened):
        return Finding(name, True, f"{what}; not compared: --bundle DIR says with what", needed_by=needed)
    oks = least_oks(answer.poses.keypoints, opened, frame)
    text = f"{what}; OKS with those of this machine's CPU {oks:.3f}"
    mend = f"expected at least {LEAST_OKS}: sharpose-export --verify on the server's device, or --precision fp32 there"
    return Finding(name, oks >= LEAST_OKS, text, mend, needed)

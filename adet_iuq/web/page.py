"""The page's layout, and its reactions when something on it is chosen, dropped or clicked."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from adet_iuq.errors import UserError
from adet_iuq.web.viewer import NUM_OTHERS, Entry, Shown, Viewer

MAX_PICTURES = 16  # number of pictures that a visitor may choose from; new ones replace the oldest
_THUMBNAIL = 160  # approximate size in pixels

INTRODUCTION = """# Where does a query fire?
Drop pictures or pick one: its masks appear. **Click an instance** and see where its query fires, on its own picture and on
the others. A query that is unique to its instance fires on that instance, and nowhere on other pictures.
"""
CSS = """
#message { min-height: 1.6em; }
#message p { font-size: 1.15rem; margin: .2em 0; }
#message .refused { color: #b00020; font-weight: 600; }
.rates p { font-size: 1.15rem; margin: .8em 0 0; }
#pictures .caption-label { font-size: .8em; }
.masks img { cursor: pointer; }
"""


class Page:
    """The page, as a gradio app.

    Args:
        viewer: provides everything that the page shows.
        weights: the files to choose from, by the name of the model; the first of each is chosen at the start, and
            `base` comes before `IUQ`.
        examples: the pictures at the start.
        threshold: the lowest score of an instance at the start.
    """

    def __init__(
        self, viewer: Viewer, weights: Mapping[str, list[str]], examples: list[Entry], threshold: float
    ) -> None:
        self._viewer, self._names = viewer, list(weights)
        with gr.Blocks(title="Where does a query fire?", analytics_enabled=False, delete_cache=(600, 3600)) as self.app:
            gr.Markdown(INTRODUCTION)
            with gr.Row():
                self._weights = [_weights(name, files) for name, files in weights.items()]
                self._threshold = gr.Slider(0, 1, threshold, step=0.01, label="Least score of an instance")
            with gr.Row():
                self._files = gr.File(
                    label="Drop pictures here", file_count="multiple", elem_id="drop", height=230, scale=1
                )
                self._pictures = gr.Gallery(
                    label="Pictures", show_label=False, elem_id="pictures", columns=6, height=230, allow_preview=False,
                    object_fit="cover", interactive=False, scale=3, buttons=[],
                )  # fmt: skip
            self._message = gr.HTML(elem_id="message")
            with gr.Row():
                self._masks = [_masks(name) for name in self._names]
            self._rates, self._maps = [], []
            for name in self._names:
                self._rates.append(gr.HTML(elem_id=f"rates-{name}", elem_classes="rates"))
                self._maps.append(_image(f"maps-{name}", "maps", f"Where the query of {name} fires", visible=False))
            self._pool, self._shown = gr.State(examples), gr.State(None)
            self._connect()

    def _connect(self) -> None:
        """Connects events with reactions. A new picture clears what was shown about the last one."""
        chosen = [*self._weights, self._threshold]
        seen = [self._shown, self._message, *self._masks, *self._rates, *self._maps]
        quiet: dict[str, Any] = {"api_visibility": "private", "concurrency_id": "viewer"}
        self.app.load(self._start, [self._pool, *chosen], [self._pool, self._pictures, *seen], **quiet)
        self._files.upload(
            self._add, [self._files, self._pool, *chosen], [self._files, self._pool, self._pictures, *seen], **quiet
        )
        self._pictures.select(self._pick, [self._pool, *chosen], seen, **quiet)
        for control in self._weights:
            control.input(self._again, [self._shown, *chosen], seen, **quiet)
        self._threshold.release(self._again, [self._shown, *chosen], seen, **quiet)
        answered = [self._message, *self._rates, *self._maps]
        for number, picture in enumerate(self._masks):
            picture.select(self._clicked(self._names[number]), [self._shown, self._pool], answered, **quiet)

    def _start(self, pool: list[Entry], *chosen: Any) -> list[Any]:
        """The thumbnails of the examples, and the masks of the first one."""
        thumbnails, kept, refused = self._thumbnails(pool, chosen)
        return [kept, thumbnails, *self._show(kept[0] if kept else None, chosen, refused)]

    def _add(self, files: list[str], pool: list[Entry], *chosen: Any) -> list[Any]:
        """Puts dropped files before the pictures that are there, and shows the first of them."""
        added = [Entry(Path(file), Path(file).name) for file in files or []]
        _, good, refused = self._thumbnails(added, chosen)
        thumbnails, kept, _ = self._thumbnails([*good, *pool][:MAX_PICTURES], chosen)
        seen = self._show(good[0], chosen, refused) if good else [gr.skip(), _refusal(refused), *self._unchanged()]
        return [None, kept, thumbnails, *seen]

    def _pick(self, pool: list[Entry], *chosen: Any, event: gr.SelectData) -> list[Any]:
        return self._show(pool[event.index], chosen, [])

    def _again(self, shown: Shown | None, *chosen: Any) -> list[Any]:
        """Shows the same picture with other weights or another threshold."""
        return self._show(shown.entry if shown else None, chosen, [])

    def _clicked(self, name: str) -> Any:
        """The answer to a click on the masks of the model `name`."""

        def answer(shown: Shown | None, pool: list[Entry], event: gr.SelectData) -> list[Any]:
            """What the page shows for the instance at the clicked spot."""
            if shown is None or name not in shown.found:
                return [gr.skip()] * (1 + 2 * len(self._names))
            instance = self._viewer.instance_at(shown, name, (event.index[0], event.index[1]))
            if instance is None:
                return [_said("There is no instance at this spot."), *[gr.skip()] * (2 * len(self._names))]
            try:
                found = self._viewer.ask(shown, name, instance, _others(shown.entry, pool))
            except UserError as error:
                return [_refusal([str(error)]), *[gr.skip()] * (2 * len(self._names))]
            said = [_rates(one, found.texts.get(one, "")) for one in self._names]
            maps = [gr.Image(found.pictures.get(one), visible=one in found.pictures) for one in self._names]
            return ["", *said, *maps]

        return answer

    def _show(self, entry: Entry | None, chosen: Sequence[Any], refused: list[str]) -> list[Any]:
        """The values for everything that is shown of a picture: state, message and masks; the maps are cleared."""
        weights, threshold = self._selection(chosen)
        blank = [gr.HTML(""), gr.Image(None, visible=False)]
        cleared = [blank[0]] * len(self._names) + [blank[1]] * len(self._names)
        if entry is None:
            said = _refusal(refused) if refused else _said("Drop a picture to begin.")
            return [None, said, *[gr.skip()] * len(self._names), *cleared]
        try:
            shown = self._viewer.detect(weights, entry, threshold)
            masks = self._viewer.masks(shown)
        except UserError as error:
            return [None, _refusal([*refused, str(error)]), *[gr.Image(None)] * len(self._names), *cleared]
        counts = ", ".join(f"{name} finds {len(found)} instances" for name, found in shown.found.items())
        said = f"{_refusal(refused)}{_said(f'{entry.name}: {counts}. Click one of them.')}"
        images = [gr.Image(masks.get(name), visible=name in masks) for name in self._names]
        return [shown, said, *images, *cleared]

    def _thumbnails(self, entries: Sequence[Entry], chosen: Sequence[Any]) -> tuple[list[Any], list[Entry], list[str]]:
        """Small pictures with their names, the entries that have one, and the reasons why the others have none."""
        thumbnails: list[Any] = []
        kept, refused = [], []
        for entry in entries:
            try:
                rgb = self._viewer.read(self._selection(chosen)[0], entry).rgb
            except UserError as error:
                refused.append(str(error))
                continue
            step = max(1, min(rgb.shape[:2]) // _THUMBNAIL)
            thumbnails.append((rgb[::step, ::step], entry.name))
            kept.append(entry)
        return thumbnails, kept, refused

    def _selection(self, chosen: Sequence[Any]) -> tuple[dict[str, str], float]:
        """The chosen weights by the name of the model, and the threshold."""
        *weights, threshold = chosen
        return {name: file for name, file in zip(self._names, weights, strict=True) if file}, float(threshold)

    def _unchanged(self) -> list[Any]:
        return [gr.skip()] * (3 * len(self._names))


def _weights(name: str, files: list[str]) -> gr.Dropdown:
    """The list of weights to choose from; for the base it may be left empty."""
    choices = [(f"{Path(file).parent.name}/{Path(file).name}", file) for file in files]
    if name == "base":
        choices.append(("none", ""))
    return gr.Dropdown(choices, value=files[0], label=f"Weights of {name}", interactive=True)


def _masks(name: str) -> gr.Image:
    """The picture with the masks of a model, under the model's name."""
    with gr.Column(min_width=240):
        gr.Markdown(f"### {name}")
        return _image(f"masks-{name}", "masks", f"Masks of {name}")


def _image(identifier: str, kind: str, label: str, visible: bool = True) -> gr.Image:
    return gr.Image(
        label=label, show_label=False, alt_text=label, elem_id=identifier, elem_classes=kind, interactive=False,
        visible=visible, type="numpy", buttons=["fullscreen", "download"],
    )  # fmt: skip


def _others(entry: Entry, pool: Sequence[Entry]) -> list[Entry]:
    """The pictures after this one; after the last picture the first one follows."""
    place = pool.index(entry) if entry in pool else -1
    return [one for one in [*pool[place + 1 :], *pool[: place + 1]] if one != entry][:NUM_OTHERS]


def _said(text: str) -> str:
    return f"<p role='status'>{html.escape(text)}</p>"


def _refusal(texts: Sequence[str]) -> str:
    return "".join(f"<p role='alert' class='refused'>{html.escape(text)}</p>" for text in texts)


def _rates(name: str, text: str) -> str:
    return f"<p><b>{html.escape(name)}</b>: its query {html.escape(text)}.</p>" if text else ""

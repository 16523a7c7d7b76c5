"""The playground's page in Gradio. Only the mount imports this module: Gradio takes seconds and memory.

Handlers run on threads, find out whose request it is each time, and touch only what is that person's. No handler waits:
answers are written by workers into the database, and a timer of the page asks for what there is.
"""

import os
from pathlib import Path
from typing import Any

import gradio as gr
from django.conf import settings
from fastapi import FastAPI, Request

from rso_core.errors import UserError
from webapp.accounts.models import User
from webapp.playground import asking, judging, limits, policies, prompts, wording
from webapp.playground.asking import Sampling, Watched
from webapp.playground.judging import Judgement
from webapp.playground.leaderboard import board_of
from webapp.playground.people import in_database

Updates = dict[Any, Any]

TICK_SECONDS = 0.5
_SAME = -1
_STYLE = Path(__file__).with_name("playground.css")
_QUALITIES = [("1 poor", 1), ("2", 2), ("3", 3), ("4", 4), ("5 excellent", 5)]
# Where the theme's own colours are too pale to read (WCAG AA).
_CONTRAST = {
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "block_title_text_color": "*neutral_700",
    "block_title_text_color_dark": "*neutral_200",
    "body_text_color_subdued": "*neutral_600",
    "body_text_color_subdued_dark": "*neutral_300",
    "button_primary_background_fill": "*primary_700",
    "button_primary_background_fill_hover": "*primary_800",
    "button_primary_background_fill_dark": "*primary_700",
    "button_primary_background_fill_hover_dark": "*primary_600",
}
_SCRIPT = Path(__file__).with_name("playground.js")
_ICON = '<link rel="icon" href="/static/icon.svg" type="image/svg+xml">'
_INTRODUCTION = """<header><a href="/">RSO Studio</a><h1>Playground</h1>
<p>Ask up to three models the same thing, read their answers side by side, rate them and choose the best one. What you
judge is kept in your playground campaign.</p></header>"""


def _words(html: str) -> gr.Markdown:
    """Return a component, or its new value, that shows HTML of ours. Gradio's own for HTML evaluates templates as code."""
    return gr.Markdown(html.replace("\n", " "), latex_delimiters=[])


def _user(request: gr.Request) -> User:
    """Return whose request it is, asked of the database each time."""
    user = User.objects.filter(username=request.username, is_active=True).first()
    if user is None or not user.may_research:
        message = "You are not signed in any more. Load the page again."
        raise gr.Error(message, print_exception=False)
    return user


class Page:
    """The components of the page and what they do."""

    def __init__(self) -> None:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(settings.VAR_DIR) / "gradio")
        self.blocks = gr.Blocks(title="Playground · RSO Studio", analytics_enabled=False, delete_cache=(3600, 86400))
        with self.blocks:
            self.question, self.picked = gr.State(None), gr.State(None)
            self.timer = gr.Timer(TICK_SECONDS, active=False)
            _words(_INTRODUCTION)
            self._asking()
            self._answers()
            self._judging()
            self._board()
            self._connect()

    def _asking(self) -> None:
        with gr.Row():
            self.dataset = gr.Dropdown([], label="Dataset", info="To take a prompt from, if you have none of your own.")
            self.words = gr.Textbox(label="With these words in it", max_length=200)
            self.take = gr.Button("Take a prompt", size="md", elem_id="take")
        self.prompt = gr.Textbox(label="Prompt", lines=4, max_lines=16, max_length=limits.LONGEST_PROMPT)
        with gr.Row():
            self.models = gr.Dropdown(
                [],
                multiselect=True,
                max_choices=limits.MODELS,
                label="Models",
                info="Up to three: policies and SFT models of runs, registered models.",
            )
            self.blind = gr.Radio(
                [("Blind: names after the judgement", True), ("Open", False)], value=True, label="Comparison"
            )
        with gr.Accordion("Sampling", open=False), gr.Row():
            self.temperature = gr.Number(0.7, label="Temperature", minimum=0.01, maximum=10, step=0.1)
            self.top_k = gr.Number(40, label="Top k (0: all tokens, 1: greedy)", minimum=0, precision=0)
            self.tokens = gr.Number(
                128, label="Longest answer, tokens", minimum=1, maximum=limits.LONGEST_ANSWER, precision=0
            )
            self.seed = gr.Number(None, label="Seed (empty: a new one)", minimum=0, precision=0)
            self.task = gr.Radio(
                [("Reply", "dialogue"), ("Summary", "summarization")],
                value="dialogue",
                label="Asked for, of registered models",
            )
        with gr.Row():
            self.ask = gr.Button("Ask", variant="primary")
            self.stop = gr.Button("Stop", interactive=False)
        self.state = _words("")

    def _answers(self) -> None:
        self.columns, self.headings, self.texts, self.notes, self.qualities = [], [], [], [], []
        with gr.Row(equal_height=True):
            for place in range(limits.MODELS):
                with gr.Column(visible=False) as column:
                    self.headings.append(_words(""))
                    name = f"Text of answer {place + 1}"
                    self.texts.append(gr.Textbox(label=name, lines=8, max_lines=30, interactive=False))
                    self.notes.append(_words(""))
                    self.qualities.append(gr.Radio(_QUALITIES, label=f"Quality of answer {place + 1}"))
                self.columns.append(column)

    def _judging(self) -> None:
        with gr.Group(visible=False) as self.judging:
            self.best = gr.Radio([], label="Which answer is best?")
            self.keep = gr.Button("Keep the judgement", variant="primary")

    def _board(self) -> None:
        _words("<h2>Leaderboard</h2>")
        self.everybody = gr.Checkbox(False, label="Count the judgements of others that I may see, too")
        self.board = _words("")

    def _connect(self) -> None:
        asked = [
            self.prompt,
            self.picked,
            self.models,
            self.blind,
            self.temperature,
            self.top_k,
            self.tokens,
            self.seed,
            self.task,
        ]
        rated = [self.question, self.best, self.everybody, *self.qualities]
        always: dict[str, Any] = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
        opened = [self.dataset, self.models, self.question, self.board, *self._watching(), *self._fresh()]
        self.blocks.load(self.open, None, opened, **always)
        self.take.click(
            self.take_prompt, [self.dataset, self.words], [self.prompt, self.picked, self.task, self.state], **always
        )
        self.ask.click(self.ask_models, asked, [self.question, *self._watching(), *self._fresh()], **always)
        self.stop.click(self.stop_answers, [self.question], self._watching(), **always)
        self.timer.tick(self.look, [self.question], self._watching(), **always)
        self.keep.click(self.keep_judgement, rated, [self.board, *self._watching()], **always)
        self.everybody.change(self.show_board, [self.everybody], [self.board], **always)

    def _watching(self) -> list[Any]:
        """Return what changes while answers come."""
        shown = [*self.columns, *self.headings, *self.texts, *self.notes]
        return [self.timer, self.state, self.stop, self.ask, self.judging, *shown]

    def _fresh(self) -> list[Any]:
        """Return what is cleared for a new question."""
        return [self.best, *self.qualities]

    # What the page shows

    def _shown(self, watched: Watched) -> Updates:
        going = not watched.is_over
        whole = sum(answer.status == "done" for answer in watched.answers)
        has_workers = not going or asking.workers_are_there()
        updates: Updates = {
            self.timer: gr.Timer(active=going),
            self.state: _words(wording.state(watched, has_workers=has_workers)),
            self.stop: gr.Button(interactive=going),
            self.ask: gr.Button(interactive=not going),
            self.judging: gr.Group(visible=not going and not watched.is_rated and whole >= judging.FEWEST),
        }
        for place in range(limits.MODELS):
            answer = next((one for one in watched.answers if one.place == place), None)
            updates[self.columns[place]] = gr.Column(visible=answer is not None)
            if answer is not None:
                updates[self.headings[place]] = _words(wording.heading(watched, answer))
                updates[self.texts[place]] = gr.Textbox(value=answer.text)
                updates[self.notes[place]] = _words(wording.note(watched, answer))
        return updates

    def _cleared(self, watched: Watched) -> Updates:
        """Offer the choices of a question, with nothing chosen."""
        choices = [(f"Answer {answer.place + 1}", answer.place) for answer in watched.answers]
        updates: Updates = {self.best: gr.Radio(choices=[*choices, ("About the same", _SAME)], value=None)}
        return updates | {quality: gr.Radio(value=None) for quality in self.qualities}

    # What it does

    @in_database
    def open(self, request: gr.Request) -> Updates:
        """Fill the page for whoever opens it, with the question they left."""
        user = _user(request)
        updates: Updates = {
            self.dataset: gr.Dropdown(choices=prompts.datasets_of(user)),
            self.models: gr.Dropdown(choices=[(one.label, one.key) for one in policies.policies_of(user)]),
            self.board: _words(wording.board(board_of(user))),
        }
        last = asking.last_question(user)
        watched = asking.watch(last, owner=user) if last is not None else None
        if watched is None or watched.is_rated:
            return updates
        return updates | {self.question: last} | self._shown(watched) | self._cleared(watched)

    @in_database
    def take_prompt(self, dataset: str | None, words: str, request: gr.Request) -> Updates:
        """Put a prompt of a dataset into the field."""
        try:
            picked = prompts.pick(dataset or "", _user(request), words=words or "")
        except UserError as error:
            return {self.state: _words(wording.problem(str(error)))}
        return {self.prompt: picked.prompt, self.picked: picked, self.task: picked.task, self.state: _words("")}

    @in_database
    def ask_models(  # noqa: PLR0913, PLR0917 - the fields of the page, by place
        self,
        prompt: str,
        picked: prompts.Picked | None,
        models: list[str] | None,
        blind: bool,  # noqa: FBT001
        temperature: float | None,
        top_k: float | None,
        tokens: float | None,
        seed: float | None,
        task: Any,
        request: gr.Request,
    ) -> Updates:
        """Ask the chosen models."""
        user = _user(request)
        try:
            own_seed = None if seed is None else _whole(seed)
            sampling = Sampling(_number(temperature), _whole(top_k), _whole(tokens), own_seed)
            chosen = policies.chosen(models or [], user, task=task)
            messages = prompts.messages_of(prompt or "", picked)
            question = asking.ask(user, messages, chosen, is_blind=blind, sampling=sampling)
        except UserError as error:
            return {self.state: _words(wording.problem(str(error)))}
        watched = asking.watch(question.pk, owner=user)
        shown = {} if watched is None else self._shown(watched) | self._cleared(watched)
        return {self.question: question.pk, **shown}

    @in_database
    def look(self, question: int | None, request: gr.Request) -> Updates:
        """Show what there is by now. This is the heartbeat too: what nobody looks at is dropped."""
        return self._looked(question, request)

    @in_database
    def stop_answers(self, question: int | None, request: gr.Request) -> Updates:
        """Stop what is not answered yet."""
        if question is not None:
            asking.cancel(question, owner=_user(request))
        return self._looked(question, request)

    @in_database
    def keep_judgement(
        self,
        question: int | None,
        best: int | None,
        everybody: bool,  # noqa: FBT001
        first: int | None,
        second: int | None,
        third: int | None,
        request: gr.Request,
    ) -> Updates:
        """Store what was thought of the answers, and say the models' names."""
        user = _user(request)
        quality = {place: int(value) for place, value in enumerate((first, second, third)) if value is not None}
        try:
            judging.judge(question or 0, Judgement(quality, _chosen(best)), owner=user)
        except UserError as error:
            return {self.state: _words(wording.problem(str(error)))}
        return {
            self.board: _words(wording.board(board_of(user, everybody=everybody))),
            **self._looked(question, request),
        }

    @in_database
    def show_board(self, everybody: bool, request: gr.Request) -> Updates:  # noqa: FBT001 - Gradio passes values by place
        """Show the leaderboard of one's own judgements, or of all one may see."""
        return {self.board: _words(wording.board(board_of(_user(request), everybody=everybody)))}

    def _looked(self, question: int | None, request: gr.Request) -> Updates:
        watched = None if question is None else asking.watch(question, owner=_user(request))
        return {self.timer: gr.Timer(active=False)} if watched is None else self._shown(watched)


def _chosen(best: int | None) -> int | None:
    """Return the place of the best answer, None for about the same."""
    if best is None:
        message = "choose the best answer, or about the same"
        raise UserError(message)
    return None if best == _SAME else int(best)


def _number(value: Any) -> float:
    if value is None:
        message = "temperature, top k and the longest answer must be numbers; one of them is empty"
        raise UserError(message)
    return float(value)


def _whole(value: Any) -> int:
    return int(_number(value))


def build(prefix: str) -> FastAPI:
    """Return an app with the page mounted at `prefix`. Whoever serves it stands a guard before it."""
    text, code = ["system-ui", "sans-serif"], ["ui-monospace", "monospace"]
    theme = gr.themes.Base(primary_hue="indigo", font=text, font_mono=code).set(**_CONTRAST)
    mounted: FastAPI = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        Page().blocks,
        path=prefix,
        auth_dependency=_who,
        ssr_mode=False,
        run_history=False,
        show_error=False,
        max_file_size="1kb",
        footer_links=[],
        mcp_server=False,
        pwa=False,
        enable_monitoring=False,
        theme=theme,
        head=f"{_ICON}<script>{_SCRIPT.read_text(encoding='utf-8')}</script>",
        css_paths=[_STYLE],
    )
    return mounted


def _who(request: Request) -> str | None:
    """Return whom the guard has let in."""
    name: str | None = request.scope.get("state", {}).get("playground_user")
    return name

"""What the playground says, as HTML made here: everything that comes from people or models is escaped."""

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from webapp.playground.asking import Watched
from webapp.playground.leaderboard import Board
from webapp.playground.models import Generation

_Status = Generation.Status
_FEW_GAMES = 20


def heading(watched: Watched, answer: Generation) -> SafeString:
    """Return the heading of a column; a blind comparison names the models only once it is judged."""
    name = format_html("Answer {}", answer.place + 1)
    if watched.question.is_blind and not watched.is_rated:
        return format_html("<h2>{}</h2>", name)
    return format_html("<h2>{}: {}</h2>", name, answer.label)


def note(watched: Watched, answer: Generation) -> SafeString:
    """Return what is to be said under an answer."""
    hidden = watched.question.is_blind and not watched.is_rated
    if answer.status == _Status.WAITING:
        return format_html("<p>Waiting for a worker.</p>")
    if answer.status == _Status.RUNNING:
        words = f"{answer.tokens} tokens so far." if answer.tokens else "The model is being loaded."
        return format_html("<p>{}</p>", words)
    if answer.status == _Status.DONE:
        cut = " It reached the limit of tokens." if answer.truncated else ""
        read = (
            " The beginning of the prompt was left out: it is longer than the model reads."
            if answer.prompt_truncated
            else ""
        )
        return format_html("<p>{} tokens.{}{}</p>", answer.tokens, cut, "" if hidden else read)
    state = "Stopped" if answer.status == _Status.STOPPED else "No answer"
    # Messages of failures name files and models; what is hidden is told with the names.
    message = (
        "it is told why once you have judged, or ask openly"
        if hidden and answer.status == _Status.FAILED
        else answer.message
    )
    return format_html('<p class="failed"><strong>{}:</strong> {}.</p>', state, message.rstrip("."))


def state(watched: Watched, *, has_workers: bool) -> SafeString:
    """Return the line that says where the question stands."""
    if watched.is_rated:
        return format_html('<p role="status">Your judgement is kept.</p>')
    if watched.is_over:
        return format_html('<p role="status">All answers are there that will come.</p>')
    if not has_workers:
        return format_html(
            '<p role="status">No worker is running, so nothing answers. The question waits ten minutes.</p>'
        )
    running = sum(answer.status == _Status.RUNNING for answer in watched.answers)
    done = sum(answer.status not in {_Status.RUNNING, _Status.WAITING} for answer in watched.answers)
    if running or done:
        return format_html('<p role="status">{} of {} answers are there.</p>', done, len(watched.answers))
    before = "You are next" if not watched.ahead else f"{watched.ahead} answer{'s' * (watched.ahead > 1)} before yours"
    wait = "" if watched.seconds is None else f", about {max(1, round(watched.seconds))} s to wait"
    return format_html('<p role="status">{}{}.</p>', before, wait)


def problem(message: str) -> SafeString:
    """Return why something was not done."""
    return format_html('<p role="alert" class="failed"><strong>Not done:</strong> {}.</p>', message.rstrip("."))


def board(found: Board) -> SafeString:
    """Return the leaderboard."""
    if not found.rows:
        return format_html("<p>No judgement yet. Compare two or three models, rate them, and they stand here.</p>")
    rows = format_html_join(
        "",
        "<tr><th scope='row'>{}</th><td>{}</td><td>{} to {}</td><td>{} of {}</td></tr>",
        (
            (row.label, f"{row.strength:+.2f}", f"{row.low:+.2f}", f"{row.high:+.2f}", f"{row.won:g}", row.games)
            for row in found.rows
        ),
    )
    warnings = [] if found.is_connected else ["Some models have never met, even through others: do not compare those."]
    if any(row.games < _FEW_GAMES for row in found.rows):
        warnings.append(
            "With so few games the order is not settled: where intervals overlap, models are not distinguishable."
        )
    return format_html(
        "<table><caption>Bradley–Terry strengths from {} judgement{}: log-odds around the mean, with intervals of 95 % that "
        "resample prompts. About the same counts as half a win.</caption><thead><tr><th scope='col'>Model</th>"
        "<th scope='col'>Strength</th><th scope='col'>Interval</th><th scope='col'>Games won</th></tr></thead>"
        "<tbody>{}</tbody></table>{}",
        found.judgements,
        "" if found.judgements == 1 else "s",
        rows,
        format_html_join("", "<p>{}</p>", ((words,) for words in warnings)),
    )

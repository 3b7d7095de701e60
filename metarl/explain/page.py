"""One page with all pictures inside, which can be sent as it is, and the sentence under each picture."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from metarl.distil import ACCEPTED_SHARE, Distillation
from metarl.explain.gradients import RETURN_EPISODES, TRUE
from metarl.explain.measures import InputMeasures, Measures, TaskMeasures
from metarl.explain.pictures import words
from metarl.losses.expression import parse, readable, to_latex, to_text
from metarl.losses.formula import formula_inputs
from metarl.losses.formula_encoding import TASK
from metarl.losses.support import worth_names

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #222; max-width: 1020px; margin: 2.5em auto; padding: 0 1.2em }
h1 { font-size: 1.7em; margin-bottom: .2em } h2 { font-size: 1.2em; margin: 2.2em 0 .4em }
img { max-width: 100%; display: block; margin: .6em 0 } p.read { margin: .3em 0 1em } .note { color: #666 }
.formula { background: #f4f6f8; padding: .8em 1.1em; border-radius: 6px; overflow-x: auto }
.formula math { font-size: 1.25em } code { font-size: .92em }
table { border-collapse: collapse; font-size: .88em; margin: 1em 0 } .scroll { overflow-x: auto }
th, td { text-align: right; padding: .3em .7em; border-bottom: 1px solid #ddd; vertical-align: top }
th:last-child, td:last-child { text-align: left } td:not(:last-child) { white-space: nowrap }
.short { font-size: 1.08em; border-left: 4px solid #0072b2; padding-left: .9em }
 tr.accepted { background: #eaf5f0 } tr.chosen { font-weight: 600 }
"""


_COSINE_NAMES = {TRUE: "the true reward on the same experience"}
_NOTICEABLE = 0.02
"""Below this share of the loss's own spread nobody sees that tasks differ."""


@dataclass(frozen=True)
class Section:
    """A picture and how to read it.

    Attributes:
        name: of the picture's file, without suffix.
        title: above it.
        sentence: below it, plain text.
        html: more of it, already HTML.
    """

    name: str
    title: str
    sentence: str
    html: str = ""


def short_sentences(measures: Measures, found: Distillation | None) -> str:
    """What the loss does, in two sentences."""
    inputs = measures.inputs
    led = [i for i in inputs.order[:2] if float(inputs.shares[i]) > 0]
    pays = _listed([f"{'rises' if inputs.slopes[i] > 0 else 'falls'} with {words(inputs.names[i])}" for i in led])
    share = 100 * sum(float(inputs.shares[i]) for i in led)
    chosen = None if found is None else next((one for one in found.candidates if one.is_accepted), None)
    text = f"What it pays {pays} above all ({share:.0f} % of the loss)"
    if measures.tasks.adapts and measures.tasks.spread >= _NOTICEABLE:
        name, _ = measures.tasks.parameter
        text += (
            f", and differs between tasks by {100 * measures.tasks.spread:.0f} % of its spread, most with {words(name)}"
        )
    if chosen is not None:
        assert found is not None
        formula = to_text(parse(chosen.expression, _names(found, inputs.names)), 3)
        text += f"; {formula} in its place teaches as well ({_percent(chosen.share)} % of the gain)"
        if found.task is not None:
            text += f", adapting by {TASK} = {found.task.adaptation.expression}"
    means = {name: float(values.mean()) for name, values in measures.cosines.items()}
    by_hand = [f"{means[name]:.2f} with {name}" for name in means if name not in ("learned", TRUE)]
    against = f", against {_listed(by_hand)}" if by_hand else ""
    return f"{text}. Its updates and the true gradient have a cosine of {means['learned']:.2f} on average{against}."


def maps_sentence(measures: InputMeasures) -> str:
    """How to read the maps."""
    first = measures.names[measures.order[0]]
    return (
        f"Each map shows what the loss adds to the feedback (red: more, blue: less) over two inputs while the others "
        f"stay at their median; the strongest input is {words(first)}, stripes across one axis mean that the other "
        "input hardly matters, and the dots are steps that learning policies took."
    )


def responses_sentence(measures: InputMeasures) -> str:
    """How to read shares and responses."""
    parts = [
        f"{words(measures.names[i])} ({100 * float(measures.shares[i]):.0f} %, "
        f"{'pays more' if measures.slopes[i] > 0 else 'pays less'})"
        for i in measures.order[:3]
    ]
    return (
        f"The bars say how much of the loss each input explains (integrated gradients against the median), led by "
        f"{_listed(parts)}; the lines show the mean response to one input, the bands the middle 80 % of single steps."
    )


def landscapes_sentence(measures: Measures) -> str:
    """How to read the landscapes."""
    moments = [land.update for land in measures.landscapes]
    text = []
    for name in measures.landscapes[0].losses:
        numbers = ", ".join(f"{land.correlations[name]:.2f}" for land in measures.landscapes)
        text.append(f"{name} {numbers}")
    return (
        f"Around one policy (the cross; the task whose policy ends in the middle of all), along two random directions "
        f"of its weights, after {_listed(moments)} updates. Bright is good and the arrow is where the loss leads in "
        f"this plane: a loss teaches well here if it is bright where the true return is, and its rank correlations "
        f"with that are {'; '.join(text)} (true returns are means of {RETURN_EPISODES} episodes, and grainy for that)."
    )


def cosines_sentence(measures: Measures) -> str:
    """How to read the cosines."""
    means = {name: float(values.mean()) for name, values in measures.cosines.items()}
    first, last = (float(measures.cosines["learned"][k].mean()) for k in (0, -1))
    others = _listed([f"{means[name]:.2f} for {_COSINE_NAMES.get(name, name)}" for name in means if name != "learned"])
    return (
        f"A cosine of 1 means that an update goes exactly where the true return of the task grows fastest: the "
        f"learned loss has {first:.2f} at the first update and {last:.2f} at the last, {means['learned']:.2f} on "
        f"average, against {others} (lines: means, bands: middle half of {measures.num_tasks} tasks; even the true "
        "reward is below 1, because an update sees few episodes)."
    )


def tasks_sentence(measures: TaskMeasures) -> str:
    """How to read what differs between tasks."""
    first, last = ([f"{size:.2g}" for size in measures.step_sizes.mean(0)[k].tolist()] for k in (0, -1))
    pace = (
        f"step sizes of hidden layers, last layer and exploration go from {_listed(first)} at the first update to "
        f"{_listed(last)} at the last"
    )
    if not measures.adapts:
        return f"This loss is the same on all tasks, so the lines lie on each other; {pace}."
    strengths = ", ".join(f"{value:.2f}" for value in measures.strengths)
    strengths = f" (strengths {strengths} for gain, shift and step size)" if strengths else ""
    if measures.spread < _NOTICEABLE:
        return (
            f"This loss may adapt to the task but hardly does: what a task gave so far moves it{strengths} in the "
            f"same way on every task, but for "
            f"{100 * measures.spread:.1g} % of its own spread, so the lines lie on each other; {pace}."
        )
    factor = float((measures.step_sizes.amax(0) / measures.step_sizes.amin(0)).max())
    name, _ = measures.parameter
    return (
        f"One line per task, at its last update: what the task gave so far moves the loss by "
        f"{100 * measures.spread:.0f} % of its own spread{strengths}, "
        f"most in order of {words(name)} (rank correlation {measures.parameter_correlation:.2f}); {pace}, and differ "
        f"by a factor of {factor:.2f} at most from task to task."
    )


def formulas_sentence(found: Distillation) -> str:
    """How to read the front and the test."""
    accepted = [one for one in found.candidates if one.is_accepted]
    told = (
        f"the simplest accepted one has {accepted[0].complexity} nodes and keeps {100 * accepted[0].share:.0f} % "
        f"(95 % interval {100 * accepted[0].share_ci95[0]:.0f} to {100 * accepted[0].share_ci95[1]:.0f})"
        if accepted
        else f"none was accepted, the best keeps {100 * max(one.share for one in found.candidates):.0f} %"
    )
    return (
        f"To the left how close each formula is to the network, to the right what decides: the gain in true return of "
        f"fresh policies on {found.num_validation_tasks} validation tasks, where the network takes them from "
        f"{found.start_return:.3g} to {found.network_return:.3g} (step sizes times the best of a few factors, "
        f"{found.network_step_scale:g} for the network); with at least {100 * ACCEPTED_SHARE:.0f} % of that "
        f"gain (filled) a formula is accepted, and {told}.{_task_sentence(found)}"
    )


def _task_sentence(found: Distillation) -> str:
    """How formulas adapt."""
    if found.task is None and found.typical_share >= ACCEPTED_SHARE:
        return ""
    same = f" The network that is the same for all tasks keeps {100 * found.typical_share:.0f} % of the gain"
    if found.task is None:
        return f"{same}, but what it adapts to is nothing that a model of the feedback tells: these formulas do not."
    task = found.task
    moved = [f"the logarithm of step sizes by {task.adaptation.step_sizes:g}"]
    if task.decay_logit is not None:
        moved.append(f"the logit of the decay of credit by {task.adaptation.decay:g}")
    return (
        f"{same}, so formulas adapt too. They do so by one number, task, of what the feedback of the task's episodes "
        f"goes along with (worth): the direction that makes up {100 * task.share:.0f} % of how losses differ between "
        f"tasks, with an R² of {task.r_squared:.2f} on tasks that it was not fitted to. It moves {_listed(moved)}."
    )


def formula_html(found: Distillation, signals: Sequence[str]) -> str:
    """The chosen formula and the table of all candidates."""
    rows = []
    names = _names(found, formula_inputs(found.loss, tuple(signals)))
    chosen = next((one for one in found.candidates if one.is_accepted), None)
    for one in found.candidates:
        kind = "accepted chosen" if one is chosen else "accepted" if one.is_accepted else ""
        low, high = one.share_ci95
        cells = [
            str(one.complexity),
            f"{one.r_squared:.3f}",
            f"{one.advantage_correlation:.3f}",
            f"{one.step_scale:g}",
            f"{_percent(one.share)} [{_percent(low)}, {_percent(high)}]",
            one.source,
            f"<code>{escape(to_text(parse(one.expression, names), 3))}</code>",
        ]
        rows.append(f'<tr class="{kind}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    heads = ("nodes", "R²", "corr. of advantages", "steps ×", "gain kept (%)", "found by", "formula")
    table = (
        '<div class="scroll"><table><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + "</tr>"
        + "\n".join(rows)
        + "</table></div>"
    )
    if chosen is None:
        return table
    left = "added reward" if found.loss == "reward" else found.loss
    parts = [formula_mathml(left, chosen.expression, names)]
    if found.task is not None:
        parts.append(formula_mathml(TASK, found.task.adaptation.expression, worth_names(tuple(signals))))
    return f'<div class="formula">{"".join(parts)}</div>{table}'


def formula_mathml(left: str, text: str, names: Sequence[str]) -> str:
    """A formula as MathML, with its LaTeX below."""
    import sympy
    from sympy.printing.mathml import mathml

    tree = parse(text, names)
    expression = readable(tree)
    symbols = {symbol: sympy.Symbol(f"NAME{i}") for i, symbol in enumerate(sorted(expression.free_symbols, key=str))}
    drawn = mathml(expression.subs(symbols), printer="presentation").replace("&InvisibleTimes;", "&#xB7;")
    for symbol, stand_in in symbols.items():
        # A digit behind letters would be drawn as an index.
        index = stand_in.name.removeprefix("NAME")
        drawn = drawn.replace(
            f"<msub><mi>NAME</mi><mi>{index}</mi></msub>", f"<mtext>{escape(words(symbol.name))}</mtext>"
        )
        drawn = drawn.replace(
            f"<msub><mi>NAME</mi><mn>{index}</mn></msub>", f"<mtext>{escape(words(symbol.name))}</mtext>"
        )
    latex = escape(to_latex(tree))
    return f'<math display="block"><mtext>{escape(left)}</mtext><mo>=</mo>{drawn}</math><code>{latex}</code>'


def write_page(
    path: Path, title: str, lead: str, short: str, sections: Sequence[Section], pictures: Mapping[str, Path]
) -> None:
    """Write the page.

    Args:
        path: of the HTML file.
        title: above all.
        lead: what was looked at, plain text.
        short: what was found, plain text.
        sections: from top to bottom.
        pictures: name -> PNG, put into the page.
    """
    parts = [f"<h1>{escape(title)}</h1><p class='note'>{escape(lead)}</p><p class='short'>{escape(short)}</p>"]
    for section in sections:
        parts.append(f"<h2>{escape(section.title)}</h2>")
        if section.name in pictures:
            data = base64.b64encode(pictures[section.name].read_bytes()).decode()
            parts.append(f'<img alt="{escape(section.title)}" src="data:image/png;base64,{data}">')
        parts.append(f'<p class="read">{escape(section.sentence)}</p>{section.html}')
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _names(found: Distillation, inputs: Sequence[str]) -> tuple[str, ...]:
    """What the formulas of a distillation may use."""
    return (*inputs, *(() if found.task is None else (TASK,)))


def _percent(share: float) -> str:
    """As a whole number of per cent, without a sign where that is 0."""
    return f"{100 * share:.0f}".replace("-0", "0") if abs(share) < 0.005 else f"{100 * share:.0f}"


def _listed(parts: Sequence[Any]) -> str:
    texts = [str(part) for part in parts]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"

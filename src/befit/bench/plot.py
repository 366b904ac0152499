"""Pictures of results, with matplotlib (the extra `plots`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from befit.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ENDINGS = (".svg", ".png")
Named: TypeAlias = Sequence[tuple[str, dict[str, Any]]]
"""(name for the legend, result)."""


def check(path: Path) -> None:
    """Tell before measuring what would stop `draw`. Raises ConfigError."""
    from importlib.util import find_spec

    if path.suffix not in ENDINGS:
        raise ConfigError(f"{path} is no picture befit can draw; give a name that ends in {' or '.join(ENDINGS)}.")
    if find_spec("matplotlib") is None:
        raise ConfigError("Drawing needs matplotlib, which is not installed: pip install 'befit[plots]'.")


def draw(results: Named, path: Path) -> None:
    """Draw results of one kind into one file. Raises ConfigError for kinds that differ or have no picture."""
    check(path)
    kinds = {result["benchmark"] for _, result in results}
    if len(kinds) > 1:
        raise ConfigError(f"The results are of different kinds ({', '.join(sorted(kinds))}); draw one kind at a time.")
    [kind] = kinds
    if kind not in _PICTURES:
        raise ConfigError(f"Results of {kind} are a single number each; there is a picture of {', '.join(_PICTURES)}.")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # No hash or date in the file: the same result gives the same picture.
    with rc_context({"svg.hashsalt": "befit", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        figure = Figure(layout="constrained")
        _PICTURES[kind](figure, results)
        machine = results[0][1]["machine"]
        figure.suptitle(f"{machine['cpu']}, {machine['cores']} cores, befit {machine['versions']['befit']}", fontsize=8)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def _serve(figure: Figure, results: Named) -> None:
    figure.set_size_inches(10, 3.4)
    panels = figure.subplots(1, 3)
    by_rate = any(run["rate"] is not None for _, result in results for run in result["runs"])
    for name, result in results:
        runs = [run for run in result["runs"] if run["completed"]]
        x = [run["rate"] if by_rate else run["concurrency"] for run in runs]
        panels[0].plot(x, [run["output_tok_s"] for run in runs], "o-", label=name)
        for panel, metric in ((panels[1], "ttft_ms"), (panels[2], "tpot_ms")):
            [line] = panel.plot(x, [run[metric]["p50"] for run in runs], "o-", label=f"{name} p50")
            panel.plot(x, [run[metric]["p99"] for run in runs], "o:", color=line.get_color(), label=f"{name} p99")
    label = "requests/s offered" if by_rate else "clients"
    for panel, title in zip(panels, ("output tokens/s", "TTFT, ms", "TPOT, ms"), strict=True):
        _finish(panel, label, title, log_x=not by_rate)


def _latency(figure: Figure, results: Named) -> None:
    figure.set_size_inches(8, 3.4)
    decode, prefill = figure.subplots(1, 2)
    for name, result in results:
        runs = [run for run in result["runs"] if "tok_s" in run]
        for batch in dict.fromkeys(run["batch"] for run in runs if run["phase"] == "decode"):
            own = [run for run in runs if run["phase"] == "decode" and run["batch"] == batch]
            decode.plot(
                [run["context"] for run in own], [run["tok_s"] for run in own], "o-", label=f"{name}, batch {batch}"
            )
        own = [run for run in runs if run["phase"] == "prefill"]
        prefill.plot([run["context"] for run in own], [run["tok_s"] for run in own], "o-", label=name)
    _finish(decode, "context, tokens", "decode, tokens/s", log_x=True)
    _finish(prefill, "prompt, tokens", "prefill, tokens/s", log_x=True)


def _kernels(figure: Figure, results: Named) -> None:
    isas = list(dict.fromkeys(run["isa"] for _, result in results for run in result["runs"]))
    figure.set_size_inches(4 * len(isas), 3.6)
    panels = figure.subplots(1, len(isas), squeeze=False)[0]
    for panel, isa in zip(panels, isas, strict=True):
        for name, result in results:
            runs = [run for run in result["runs"] if run["isa"] == isa]
            for kind in dict.fromkeys(run["format"] for run in runs):
                own = [run for run in runs if run["format"] == kind]
                label = kind if len(results) == 1 else f"{name} {kind}"
                panel.plot([run["tokens"] for run in own], [100 * run["share"] for run in own], "o-", ms=3, label=label)
        _finish(panel, "tokens", f"{isa}: % of the limit", log_x=True)


def _startup(figure: Figure, results: Named) -> None:
    figure.set_size_inches(5, 3.2)
    panel = figure.subplots()
    names = ("ready", "first_token")
    _bars(panel, [(name, [result["summary"][key]["median"] for key in names]) for name, result in results], names)
    _finish(panel, "", "seconds after the start", log_x=False)


def _peers(figure: Figure, results: Named) -> None:
    figure.set_size_inches(9, 3.6)
    panel = figure.subplots()
    rows = [row for row in results[0][1]["summary"] if row["number"].endswith("tok/s")]
    bars = []
    for name, result in results:
        own = {(row["work"], row["number"]): row for row in result["summary"]}
        for server in result["settings"]["names"]:
            values = [
                own[row["work"], row["number"]]["values"][server] or 0
                for row in rows
                if (row["work"], row["number"]) in own
            ]
            bars.append((server if len(results) == 1 else f"{name} {server}", values))
    _bars(panel, bars, [row["work"] for row in rows])
    _finish(panel, "", "tokens/s", log_x=False)


def _bars(panel: Axes, groups: Sequence[tuple[str, Sequence[float]]], ticks: Sequence[str]) -> None:
    width = 0.8 / len(groups)
    for i, (name, values) in enumerate(groups):
        panel.bar([at - 0.4 + width * (i + 0.5) for at in range(len(values))], values, width, label=name)
    panel.set_xticks(range(len(ticks)), ticks)


def _finish(panel: Axes, x: str, y: str, *, log_x: bool) -> None:
    if log_x:
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter("{x:g}")
    panel.set_xlabel(x)
    panel.set_title(y)
    panel.set_ylim(bottom=0)
    panel.legend(fontsize=6)


_PICTURES: dict[str, Callable[[Figure, Named], None]] = {
    "serve": _serve,
    "latency": _latency,
    "kernels": _kernels,
    "startup": _startup,
    "peers": _peers,
}

"""The commands, as one table: the parser, the help, the shell completion and docs/commands.md are made from it.

A new command is one row here and one function in this folder.
"""

from __future__ import annotations

from typing import Any, NamedTuple

Argument = tuple[tuple[str, ...], dict[str, Any]]


class Command(NamedTuple):
    """One row. `run` is "module:function" below agent.commands; `answers` is what --json prints, at least."""

    name: str
    help: str
    run: str
    arguments: tuple[Argument, ...] = ()
    answers: str = ""


def arg(*flags: str, **options: Any) -> Argument:
    """One argument, in the words of argparse."""
    return flags, options


BY = (
    arg("--by", required=True, metavar="NAME", help="who decides; goes into the record"),
    arg("--reason", required=True, metavar="TEXT", help="why; goes into the record"),
)
WHERE = arg(
    "--where", action="append", default=[], metavar="COLUMN=VALUE", help="take part of the folder: = or !=; repeatable"
)
VERSION = arg("version", metavar="VERSION", help="v3, or champion, challenger, shadow, previous")
SEED = arg("--seed", type=int, default=0, metavar="S", help="same seed, same result")
ALARM = (
    '[{"id", "monitor", "stream", "shift", "state", "opened_at", "opened_at_case", "statistic", "threshold", "score"}]'
)
VERSION_ROW = '{"id", "parent", "state", "recipe", "created_at", "approved_by", "digest"}'


def later(name: str, help: str) -> Command:
    """A command that a later part brings: it takes anything and says so."""
    return Command(name, help, "later:refuse", (arg("rest", nargs="*", metavar="ARGS"),))


TASKS = ("classification", "multilabel", "segmentation", "detection")

# fmt: off
GROUPS: dict[str, tuple[Command, ...]] = {
    "See it": (
        Command("demo", "the whole story on generated or your own images, in minutes", "demo:demo", (
            arg("--keep", metavar="DIR", help="keep the workspace there"),
            arg("--data", metavar="DIR", help="your own data folder"),
            arg("--home", metavar="COLUMN=VALUE", help="the cases that the model was made for"),
            arg("--new", metavar="COLUMN=VALUE", help="the cases that come after the change"),
        ), '{"workspace", "story": [{"step", "says"}], "page", "seconds"}'),
        Command("check", "has a data folder drifted from another: no workspace, no model needed", "compare:check", (
            arg("new", metavar="NEW", help="the data folder in question"),
            arg("--against", required=True, metavar="REF", help="the data folder that it should be like"),
            arg("--model", metavar="BASE", help="see with this base model; without one, by image quality"), WHERE,
            arg("--against-where", action="append", default=[], metavar="COLUMN=VALUE", help="take part of REF"),
            arg("--out", metavar="FILE.html", help="write the page, with the most unusual images"), SEED,
        ), '{"drift", "shift", "driver", "n", "evidence"}'),
    ),
    "Deploy": (
        Command("fit", "train a base model on a labelled data folder", "deploy:fit", (
            arg("--data", required=True, metavar="DIR", help="labelled images and cases.csv"), WHERE,
            arg("--task", required=True, choices=TASKS,
                help="what the model answers; a classification with labels such as a|b is multilabel"),
            arg("--out", required=True, metavar="BASE", help="folder to write the base model to"),
            arg("--backbone", metavar="NAME_OR_PATH", help="an architecture, a local folder, or a weights file"),
            arg("--size", type=int, metavar="PIXELS", help="side that images are brought to (else the backbone's)"),
            arg("--slices", type=int, default=1, metavar="N",
                help="of a volume, evenly spaced, that make up one case (else its middle one)"),
            arg("--pretrain", choices=("mae", "none"), default="none", help="self-supervised start"),
            arg("--epochs", type=int, metavar="N", help="at most; it stops early by itself"), SEED,
        ), '{"out", "backbone", "n_train", "n_val", "task", "metrics", "seconds"}'),
        Command("import", "make a base of a model that was trained elsewhere, with its own head", "deploy:import_", (
            arg("spec", metavar="MODEL", help="as fit's --backbone, such as mobilenet_v3_small:WEIGHTS.npz"),
            arg("--classes", required=True, metavar="A,B,...", help="in the order of its outputs"),
            arg("--task", default="classification", choices=TASKS,
                help="what the model answers; of masks the first class is the background"),
            arg("--size", type=int, metavar="PIXELS", help="side it was trained at, where its files don't say it"),
            arg("--slices", type=int, default=1, metavar="N",
                help="of a volume, evenly spaced, that make up one case (else its middle one)"),
            arg("--out", required=True, metavar="BASE", help="folder to write the base model to"),
        ), '{"out", "task", "classes", "digest"}'),
        Command("init", "make a workspace around a base model", "deploy:init", (
            arg("--model", required=True, metavar="BASE", help="what 'fit' wrote, a black box or a MONAI bundle"),
            arg("--reference", required=True, metavar="DIR", help="labelled cases it is approved on"), WHERE,
            arg("--config", metavar="FILE", help="the site's declaration; see 'homeostat validate --schema'"),
            arg("--external", action="store_true", help="a black box of which only outputs arrive"),
            arg("--outputs", metavar="NAME:N", help="with --external: the outputs and how many"),
        ), '{"workspace", "live": "v0", "reference": {"n", "patients"}, "anchor": {"n", "patients"}, "decidable"}'),
    ),
    "Operate": (
        Command("run", "the daemon: observe, detect, decide, update, judge, watch", "operate:run", (
            arg("--until-idle", action="store_true", help="work off all that is there, then end"),
        ), '{"cases", "quarantined", "alarms", "versions", "live"}'),
        Command("feed", "hand a data folder to the intake", "intake:feed", (
            arg("dir", metavar="DIR", help="images, with or without cases.csv"), WHERE,
            arg("--no-labels", action="store_true", help="leave the labels in it aside"),
        ), '{"accepted", "duplicates", "quarantined"}'),
        Command("labels", "late labels in; the cases most worth labelling out", "intake:labels", (
            arg("action", choices=("import", "wanted"), help="in, or out"),
            arg("file", nargs="?", metavar="FILE", help="CSV with case_id and label"),
            arg("--n", type=int, metavar="N", help="with wanted: how many"),
        ), '{"joined", "unknown", "conflicts"}; wanted: [{"case_id", "why"}]'),
        Command("update", "ask for an update by hand: same plan, same gates", "operate:update", (
            arg("--recipe", metavar="NAME", help="instead of the plan's choice"),
            arg("--dry-run", action="store_true", help="say what would be done"),
        ), '{"candidate", "verdicts", "state"}'),
        Command("suspend", "mark today's answers as not to be trusted", "status:suspend", BY, '{"state", "trust"}'),
        Command("resume", "automatic promotion goes on, trust back to normal", "status:resume", (
            *BY, arg("--alarm", type=int, metavar="ID", help="only this alarm ends, and its charts begin anew"),
        ), '{"state", "trust"}'),
    ),
    "Look": (
        Command("status", "what is live, and what to think of it", "status:status", (),
                '{"live", "previous", "sealed", "state", "trust", "doubted", "suspended", '
                '"cases": {"seen", "quarantined", "labelled"}, "drift": {"state", "shift", "since_case"}, '
                '"unknown_classes", "alarms_open", "jobs"}'),
        Command("alarms", "the alarms, oldest first; or acknowledge one", "status:alarms", (
            arg("action", nargs="?", choices=("ack",), help="acknowledge the alarm ID"),
            arg("id", nargs="?", type=int, metavar="ID", help="its number"),
            arg("--all", action="store_true", help="closed ones too"),
            arg("--by", metavar="NAME", help="with ack: who saw it"),
        ), ALARM),
        Command("performance", "what late labels say of the live version, as they are and weighted to all cases",
                "performance:performance", (
            arg("--last", type=int, default=1000, metavar="N", help="of its latest N answers"),
        ), '{"version", "cases", "labelled", "coverage", "arms", "measured", "weighted"}'),
        Command("report", "a page: the card and change record of a version, or how an alarm came", "report:report", (
            arg("version", nargs="?", metavar="VERSION", help="default: the live one"),
            arg("--alarm", type=int, metavar="ID", help="the alarm's number, for its page"),
            arg("--out", required=True, metavar="FILE.html", help="the page"),
        ), '{"out"}'),
        Command("journal", "the events, oldest first", "status:journal", (
            arg("--since", type=int, default=0, metavar="N", help="those after event N"),
        ), '[{"seq", "at", "event", "by", "body"}]'),
        Command("verify", "digests, the journal's chain, the pointer; changes nothing", "verify:verify", (),
                '{"ok", "problems": [{"what", "where"}]}'),
    ),
    "Versions": (
        Command("versions", "every version, oldest first", "versions:versions", (), f"[{VERSION_ROW}]"),
        Command("show", "one version with its verdicts", "versions:show", (VERSION,),
                VERSION_ROW.removesuffix("}") + ', "verdicts": [{"gate", "verdict", "n", "before", "after", '
                '"interval", "margin", "says"}], "axes", "measures", "lineage"}'),
        Command("replay", "train a version again from its record, and compare the bytes", "operate:replay", (
            VERSION, arg("--by", required=True, metavar="NAME", help="who asks"),
        ), '{"version", "same", "differs", "files"}'),
        Command("approve", "let a judged candidate be promoted", "versions:approve", (VERSION, *BY),
                '{"version", "state"}'),
        Command("reject", "refuse a candidate for good", "versions:reject", (VERSION, *BY), '{"version", "state"}'),
        Command("promote", "make an approved version live", "versions:promote", (VERSION, *BY), '{"version", "state"}'),
        Command("rollback", "live goes back to the previous, or the named, version", "versions:rollback", (
            arg("--to", metavar="VERSION", help="default: the previous one"), *BY,
        ), '{"from", "to", "seconds"}'),
        Command("history", "what was live when, put there by whom and why", "versions:history", (
            arg("--at", metavar="TIME", help="what was live then; RFC 3339"),
        ), '[{"version", "from", "to", "by", "reason"}]'),
        Command("anchors", "patients, looks taken and alpha left, per domain and generation", "anchors:anchors", (),
                '[{"domain", "generation", "patients", "looks", "alpha_left", "decisions_left"}]'),
        Command("predict", "answers of the live, or the named, version", "predict:predict", (
            arg("files", nargs="+", metavar="FILE", help="images"),
            arg("--version", metavar="V", help="default: the live one"),
            arg("--out", metavar="DIR", help="write the label map, or the boxes, of each image there"),
        ), '[{"file", "version", "trust", "prediction"}]'),
        Command("evaluate", "measure a version on a labelled data folder", "predict:evaluate", (
            arg("dir", metavar="DIR", help="labelled images and cases.csv"), WHERE,
            arg("--version", metavar="V", help="default: the live one"),
        ), '{"version", "n", "measures", "by_site", "by_group"}'),
        Command("saliency", "does a version look where people marked the finding, and where earlier ones looked",
                "saliency:saliency", (
            arg("dir", metavar="DIR", help="images with masks or boxes and one class each, and cases.csv"), WHERE,
            arg("--version", action="append", default=[], metavar="V",
                help="repeatable, the first is compared with (default: all that are or were live)"),
            arg("--method", choices=("grad-cam", "occlusion"),
                help="how the model is asked (else grad-cam, and occlusion for transformers)"),
            arg("--out", metavar="FILE.html", help="write the page, with the images that differ most"),
        ), '[{"version", "method", "n", "patients", "pointing_game", "iou", "chance": {"pointing_game", "iou"}, '
           '"centre", "balanced_accuracy", "auroc", "intervals", "beside", "shortcut", "says"}]'),
    ),
    "Set up": (
        Command("validate", "all errors of a config at once", "check:validate", (
            arg("config", nargs="?", metavar="CONFIG", help="default: that of the workspace"),
            arg("--schema", action="store_true", help="print the JSON Schema"),
        ), '{"ok", "errors"}'),
        Command("doctor", "what this machine has and lacks", "check:doctor", (),
                '{"ok", "errors", "checks": [{"name", "ok", "says"}]}'),
        Command("alerts", "send a marked test message to every channel", "check:alerts", (
            arg("action", choices=("test",), help="send it"),
        ), '[{"channel", "ok", "says"}]'),
        Command("bench", "the project's own benchmarks", "bench:bench", (
            arg("name", nargs="?", metavar="NAME", help="which one"),
            arg("--list", action="store_true", help="which there are"),
            arg("--data", metavar="DIR", help="the folder that holds the data folders"), SEED,
            arg("--input", metavar="DIR", help="files that somebody else made"),
            arg("--full", action="store_true", help="the long table"),
            arg("--figure", metavar="FILE", help="also draw it as SVG, where it has a picture"),
        ), '{"name", "rows", "ratios"}'),
        Command("experiment", "open questions of the field, asked of real masks", "experiment:experiment", (
            arg("name", metavar="NAME",
                help="zero-shot, lora-vs-full, cross-modality, universal-or-specialist or 2d-or-3d"),
            arg("--data", metavar="DIR", help="the folder that holds the data folders; else cells are drawn"), SEED,
            arg("--figure", metavar="FILE", help="default: NAME.svg"),
        ), '{"name", "rows", "figure"}'),
        Command("completion", "print the completion script of a shell", "check:completion", (
            arg("shell", choices=("bash", "zsh", "tcsh"), help="which shell"),
        ), '{"shell", "script"}'),
    ),
    "Brought by later parts": (
        later("plan", "what the plan would do"),
        later("diff", "what differs between two versions"),
        later("export", "the change record of a version"),
        later("erase", "remove a patient"),
    ),
}
# fmt: on

COMMANDS: tuple[Command, ...] = tuple(command for group in GROUPS.values() for command in group)

"""Everything a table or figure of a paper takes: data checks, training, tests, the numbers beside the published ones.

robustflow reproduce table1
robustflow reproduce table1 --small
robustflow reproduce my_recipe.yml --jobs 2

The recipes are files of confs/recipes, or shipped with the package. Interrupted anywhere, the same command goes on
where it was.
"""

import argparse
import datetime
import logging
import re
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from robustflow.commands import miniature
from robustflow.commands.arguments import Parser, path, path_text, require_at_least
from robustflow.evaluation import metrics
from robustflow.evaluation.description import list_columns
from robustflow.models import data_sets, weights
from robustflow.options.load import Assignment, load, load_recipe
from robustflow.options.recipe import RecipeOptions, RunOfRecipe
from robustflow.options.schema import RunOptions
from robustflow.registry import MODELS
from robustflow.report import reproduction
from robustflow.report.results import read
from robustflow.training import check, checkpoint, loop
from robustflow.utils import cpus, packaged
from robustflow.utils.answer import answer
from robustflow.utils.children import run_side_by_side
from robustflow.utils.errors import UserError

log = logging.getLogger(__name__)

RECIPES = Path("confs/recipes")


class Job:
    """A run that a recipe gives, with one training seed or that of its options, and the commands that take it through.

    ``recipe`` is the recipe's file; small: see `miniature`.
    """

    def __init__(self, recipe: Path, given: RunOfRecipe, seed: int | None, *, small: bool) -> None:
        self.given, self.seed = given, seed
        self._file = recipe.parent / given.options
        self._assignments: list[Assignment] = []
        options = self._load()
        name = given.name or options.name
        self.given = given.model_copy(update={"label": given.label or name})
        self._set({} if seed is None else {"train.manual_seed": seed})
        if small:
            self._set(miniature.shrink(options))
        self._set({"name": "/".join(filter(None, ["small" if small else "", name, "" if seed is None else str(seed)]))})
        self.options = self._load()

    def _set(self, settings: dict[str, object]) -> None:
        self._assignments += [(key, value, "--small") for key, value in settings.items()]

    def _load(self, *more: Assignment) -> RunOptions:
        return load(self._file, self.given.override, *self._assignments, *more)

    @property
    def experiment(self) -> Path:
        """Folder of the training."""
        return Path(self.options.path.experiments) / self.options.name

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return Path(self.options.path.results) / self.options.name

    @property
    def flags(self) -> list[str]:
        """What has a command read these options."""
        texts = [f"{key}={miniature.to_yaml(value)}" for key, value, _ in self._assignments]
        overrides = [text for text in (self.given.override, *texts) if text]
        return ["-opt", str(self._file), *(word for text in overrides for word in ("--override", text))]

    @property
    def is_trained(self) -> bool:
        """Whether there is anything to train."""
        options = self.options
        has_weights: bool = MODELS.entry_of(options.model).has_weights
        return has_weights and "train" in options.datasets and options.path.model_path is None

    @property
    def is_finished(self) -> bool:
        """Whether its last checkpoint is there."""
        return not self.is_trained or checkpoint.weights_file(self.experiment, self.options.train.niter).is_file()

    def for_check(self, missing: set[str]) -> RunOptions:
        """The options as --check can try them: from no weights where the encoder is still to be trained."""
        start = self.options.path.pretrain_model_G
        if start is None or Path(start).resolve() not in {Path(one).resolve() for one in missing}:
            return self.options
        return self._load(("path.pretrain_model_G", None, "--check"), ("network_G.train_RRDB_delay", 0.0, "--check"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Reproduce; return the exit status: 0 done, 1 failed, 2 mistake (see stderr), 130 interrupted."""
    chosen = _parser().parse_args(arguments)
    # What ends this process by the usual signal ends its commands first, as Ctrl-C does.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return answer(lambda: _reproduce(chosen), interrupted="interrupted; the same command goes on where it was")
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> Parser:
    parser = Parser(prog="robustflow reproduce", description=__doc__)
    parser.add_argument("recipe", type=path_text, help=f"name of a recipe in {RECIPES}, or a file")
    text = "the same chain with tiny networks on a few bundled photographs, in minutes: its numbers mean nothing"
    parser.add_argument("--small", action="store_true", help=text)
    parser.add_argument("--check", action="store_true", help="only try all, and say what time and memory it takes")
    text = "runs side by side; default: a run on all GPUs after the other, on CPUs a run per core"
    parser.add_argument("--jobs", type=int, metavar="N", help=text)
    text = "folder for the table; default: results/<recipe>, with --small results/<recipe>_small"
    parser.add_argument("--output", type=path, metavar="DIR", help=text)
    return parser


def _reproduce(chosen: argparse.Namespace) -> None:
    file = _locate(chosen.recipe)
    recipe, name = load_recipe(file), f"{file.stem}_small" if chosen.small else file.stem
    require_at_least(chosen, jobs=1)
    if chosen.small:
        miniature.write_images()
    encoders = [Job(file, given, None, small=chosen.small) for given in recipe.encoders]
    seeds = recipe.seeds or (None,)
    jobs = [Job(file, given, seed, small=chosen.small) for given in recipe.runs for seed in seeds]
    output = chosen.output or Path(jobs[0].options.path.results) / name
    _require_places(encoders, jobs, output)
    first = [job for job in jobs if job.seed == seeds[0]]
    recipe = recipe.model_copy(update={"runs": tuple(job.given for job in first)})
    _require_tested(recipe, first)
    _require_present(first)
    places = {"output": [str(output)], "results": [str(job.results) for job in jobs]}
    places["first"] = [str(job.results) for job in first]
    fill = partial(_fill, recipe.small if chosen.small else {}, places)
    at_once = chosen.jobs or (1 if torch.cuda.is_available() else cpus.available())
    before, after = (list(map(fill, commands)) for commands in (recipe.first, recipe.then))
    steps = {job.options.name: list(_steps(job, recipe, fill)) for job in jobs}
    distinct = {job.options.name: job for job in [*encoders, *jobs]}.values()
    unfinished = [job for job in distinct if not job.is_finished]
    if chosen.check:
        print(_check(unfinished, {str(job.experiment) for job in encoders if not job.is_finished}))  # noqa: T201
        return
    if unfinished:
        log.info("%s: checking before the start", name)
        # In a process of its own, whose memory is free again afterwards.
        words = ["reproduce", str(file), "--check", "--output", str(output), *(["--small"] if chosen.small else [])]
        run_side_by_side({"check": [words]}, 1)
    run_side_by_side({"first": before}, 1)
    trainings = {job.options.name: [_train(job, at_once)] for job in distinct if _is_left(job)}
    names = [job.options.name for job in encoders]
    run_side_by_side({name: trainings.pop(name) for name in names if name in trainings}, at_once)
    run_side_by_side({name: [*trainings.get(name, []), *commands] for name, commands in steps.items()}, at_once)
    text = reproduction.write(recipe, [(job.given, read(job.results)) for job in jobs], output)
    run_side_by_side({"then": after}, 1)
    print(text)  # noqa: T201
    log.info("%s", output / "table.md")


def _require_tested(recipe: RecipeOptions, jobs: Sequence[Job]) -> None:
    """Raise UserError for what the tests of a recipe's runs, one job for each, will not tell."""
    # All metrics, plugins' included, whose modules the options have imported.
    reproduction.require_known(recipe, [one.key for one in list_columns(metrics.choose())])
    heats, sets = {}, {}
    for job in jobs:
        label, fixed = str(job.given.label), MODELS.entry_of(job.options.model).protocol.deterministic
        heats[label] = () if fixed else job.options.val.heats
        sets[label] = list(data_sets.select_tested(job.options))
    reproduction.require_measured(recipe, heats, sets)


def _require_present(jobs: Sequence[Job]) -> None:
    """Raise UserError if weights or test sets are missing of what is not trained: no check of a training finds it."""
    for options in (job.options for job in jobs if not job.is_trained):
        file = options.path.model_path
        if file is not None and not Path(file).is_relative_to(options.path.experiments):
            weights.locate(file)
        for dataset in data_sets.select_tested(options).values():
            data_sets.evaluation_set(options, dataset)


def _locate(recipe: str) -> Path:
    named = Path(recipe) if recipe.endswith((".yml", ".yaml")) else RECIPES / f"{recipe}.yml"
    shipped = packaged.find("confs", named) if named.is_relative_to(RECIPES) else None
    place = named if named.is_file() else shipped
    if place is None:
        folders = (RECIPES, packaged.folder("confs") / RECIPES.name)
        known = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yml")}))
        raise UserError(f"{recipe}: expected a recipe ({known}) or an existing file that ends in .yml")
    return place


def _require_places(encoders: Sequence[Job], jobs: Sequence[Job], output: Path) -> None:
    """Raise UserError if runs that differ are to be in one folder, or the table in that of a run or in a file."""
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: expected a folder for the table, got a file; choose another --output")
    for job in jobs:
        if job.results.resolve() == output.resolve():
            raise UserError(f"{output}: expected a folder apart from that of run '{job.options.name}'; see --output")
    first: dict[str, Job] = {}
    for job in (*encoders, *jobs):
        name = job.options.name
        if first.setdefault(name, job).options != job.options:
            raise UserError(f"'{name}' names two runs that differ: give one of them a name of its own")


def _check(jobs: Sequence[Job], missing: set[str]) -> str:
    """Try all that is to be trained; return what it takes."""
    reports, total = [], 0.0
    # What trials say of their steps is of no interest here; warnings are.
    logging.disable(logging.INFO)
    try:
        for job in jobs:
            report, seconds = check.estimate(job.for_check(missing))
            reports.append(report)
            total += seconds
    finally:
        logging.disable(logging.NOTSET)
    whole = datetime.timedelta(seconds=round(total))
    return "\n".join(
        [*reports, f"{len(jobs)} training{'s' * (len(jobs) > 1)}: {whole} in all, one after the other, tests apart"]
    )


def _is_left(job: Job) -> bool:
    """Whether a run is to be trained, or its training to be finished."""
    if not job.is_trained:
        return False
    done = loop.is_done(job.options)
    if done:
        log.info("%s: trained already, with the same options; nothing left to do", job.options.name)
    return not done


def _train(job: Job, at_once: int) -> list[str]:
    """The command that trains a run, or goes on with it; on several GPUs at once if it runs alone."""
    gpus = torch.cuda.device_count() if at_once == 1 else 1
    words = ["train", *job.flags, "--resume", "auto"]
    return words if gpus < 2 else [f"torchrun={gpus}", *words]


def _steps(job: Job, recipe: RecipeOptions, fill: Callable[..., list[str]]) -> Iterator[list[str]]:
    """The commands that a run takes once it is trained."""
    yield ["test", *job.flags, "--quiet"]
    for command in recipe.each if job.given.each is None else job.given.each:
        yield fill(command, run=job.flags, name=[job.options.name])


def _fill(small: Mapping[str, str], places: Mapping[str, list[str]], command: str, **of_run: list[str]) -> list[str]:
    """Words of a command of a recipe; ``small``: flags to add, by a command's first words."""
    known = {f"{{{key}}}": value for key, value in {**places, **of_run}.items()}
    words: list[str] = []
    for word in _split(command):
        strange = [part for part in re.findall(r"\{\w+\}", word) if part not in known]
        if strange:
            raise UserError(f"{command!r}: expected {', '.join(known)}, got {', '.join(strange)}")
        if word in known:
            words += known[word]
            continue
        for key, values in known.items():
            if key in word:
                word = word.replace(key, values[0])
        words.append(word)
    begun = " ".join(words)
    for start, flags in small.items():
        if begun.startswith(start):
            words = _override_flags(words, shlex.split(flags))
    return words


def _split(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"{command!r}: expected a command of robustflow, got one with {error}") from error
    if not words or not Path(__file__).with_name(f"{words[0]}.py").is_file():
        raise UserError(f"{command!r}: expected a command of robustflow; robustflow --help lists them")
    return words


def _override_flags(words: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Words of a command with flags in place of those of the same names, with all their values."""
    kept, dropping = [], False
    for word in words:
        dropping = word in flags if word.startswith("--") else dropping and not word.startswith("-")
        kept += [] if dropping else [word]
    return [*kept, *flags]

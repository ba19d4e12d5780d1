"""Every fit of configs/, killed with SIGKILL and run again, ends as if nobody had touched it, bit for bit."""

import json
import random

import pytest
from stage_runs import CONFIGS, LANGUAGE, STAGES, flags, run_apart
from toy_stage import curve

STEPS, INTERVAL = 4, 2  # a validation after steps 2 and 4; a checkpoint after every step
# Places where a kill can come, and how often each is reached at least.
PLACES = {"step": STEPS, "validation": STEPS // INTERVAL, "save": STEPS, "export": 3}
OVERLAYS = sorted({path.stem for path in (CONFIGS / "experiment").glob("*.yaml")} - {"paper_codec"})
FITS = [*STAGES, "stage2 stage2_gradual"]
MORE = [f"stage2 {name}" for name in OVERLAYS if name != "stage2_gradual"]


@pytest.fixture(scope="module")
def runs(corpus, script, backbone, tmp_path_factory):
    """runs(fit, kill): what a fit leaves in its folder; with a kill, after a second call. The rest is kept."""
    whole = {}

    def run(fit, kill=None):
        stage, _, overlay = fit.partition(" ")
        if kill is None and fit in whole:
            return whole[fit]
        folder = tmp_path_factory.mktemp(fit.replace(" ", "-"))
        start = backbone if stage in LANGUAGE else ""
        command = ["fit", "-c", str(CONFIGS / f"{stage}.yaml"), "-c", str(CONFIGS / "smoke.yaml")]
        command += ["-c", str(CONFIGS / "experiment" / f"{overlay}.yaml")] if overlay else []
        command += ["--trainer.max_steps", str(STEPS), "--trainer.val_check_interval", str(INTERVAL)]
        command += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--save_steps", "1"]
        command += [*flags(stage, corpus, script, start), "--data.init_args.num_workers", str(1 + len(fit) % 2)]
        command += ["--output", str(folder / "out")]
        if kill:
            assert run_apart(command, folder / "log", kill) == -9, (folder / "log").read_text()
            assert not (folder / "out" / "done.json").exists()
        assert run_apart(command, folder / "log") == 0, (folder / "log").read_text()
        files = {name: (folder / "out" / name).read_bytes() for name in ("model.safetensors", "config.json")}
        done = json.loads((folder / "out" / "done.json").read_text())
        found = files, curve(folder / "out"), done["steps"], done["metrics"]
        if kill is None:
            whole[fit] = found
        return found

    return run


def compare(runs, fit, place, seed) -> None:
    count = random.Random(f"{fit} {place} {seed}").randint(1, PLACES[place])
    whole, cut = runs(fit), runs(fit, (place, count))
    assert cut[2] == whole[2] == STEPS
    assert cut[1] == whole[1], (fit, place, count)
    assert cut[3] == whole[3] and cut[0] == whole[0], (fit, place, count)


@pytest.mark.parametrize("fit", FITS)
def test_a_killed_fit_ends_as_if_nobody_had_touched_it(fit, runs) -> None:
    compare(runs, fit, random.Random(fit).choice(list(PLACES)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("fit", [*FITS, *MORE])
def test_wherever_it_is_killed(fit, place, seed, runs) -> None:
    compare(runs, fit, place, seed)

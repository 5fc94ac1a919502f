"""What the tuner of a run is set to, as far as the workflow must know it: which knowledge basis the run reads.

Read before any job runs and without torch, so only settings that need none are checked here; the others are checked
when the run starts.
"""

from __future__ import annotations

from typing import Literal

from gemsbench import registry
from gemsbench.config import load_settings
from gemsbench.errors import InputError
from gemsbench.profile import NO_BACKBONE, Profile, Run, tuner_name
from gemsbench.tuners.gems_settings import GEMSSettings

GEMS_TUNER = "gems"  # the tuner that keeps to what a knowledge basis leaves free

Side = Literal["input", "output"]  # of a linear layer


def basis_side(profile: Profile, run: Run) -> Side | None:
    """Which knowledge basis the tuner of a run needs: of what layers read or of what they give; None: it needs none.

    Raises InputError naming profile and key for settings that the tuner gems refuses.
    """
    if run.backbone == NO_BACKBONE:
        return None
    kind = registry.BACKBONES[run.backbone].kind
    if tuner_name(profile, run.method, kind) != GEMS_TUNER:
        return None
    settings = _gems_settings(profile, run, kind)
    # New weights know nothing that could be kept.
    return None if profile.methods[run.method].config.get("initial") == "random" else settings.basis_side


def _gems_settings(profile: Profile, run: Run, kind: str) -> GEMSSettings:
    where = f"profile '{profile.profile}', methods.{run.method}.config.tuners.{kind}.config"
    values = profile.methods[run.method].config.get("tuners", {}).get(kind, {}).get("config", {})
    try:
        settings = load_settings(GEMSSettings, values, where)
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error
    if settings.preset == "reference" and kind != "t5":
        raise InputError(
            f"{where}.preset: reference repeats the released code, which knows T5 only and not {run.backbone}. Limit "
            f"the row to T5 by methods.{run.method}.backbones, or choose another preset."
        )
    return settings

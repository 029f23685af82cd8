"""All typed parameter groups as one tree, the shorthands for the command line, and the errors.

``--params "attack=stylebkd,seed=3"`` is short for ``poison.attack=stylebkd,seed=3``: the shorthands
below name the parameters that change from cell to cell of a table.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, get_args

from omegaconf import OmegaConf
from pydantic import BaseModel, Field, ValidationError

from backdoor_pipeline.datasets import sources
from backdoor_pipeline.datasets.sources import SourceParams
from backdoor_pipeline.errors import InputError, did_you_mean
from backdoor_pipeline.modelling.device import ComputeParams
from backdoor_pipeline.modelling.folders import ModelParams
from backdoor_pipeline.modelling.training import TrainingParams
from backdoor_pipeline.parameter_group import ParameterGroup
from backdoor_pipeline.pipelines.analyse.discovery import DiscoveryParams
from backdoor_pipeline.pipelines.analyse.nodes import FourierParams
from backdoor_pipeline.pipelines.audit.params import AuditParams, EvidenceParams
from backdoor_pipeline.pipelines.detect.confirmation import ConfirmationParams
from backdoor_pipeline.pipelines.detect.discovered_share import DiscoveredShareParams
from backdoor_pipeline.pipelines.detect.overfit_similarity import OverfitSimilarityParams
from backdoor_pipeline.pipelines.detect.token_association import TokenAssociationParams
from backdoor_pipeline.pipelines.detect.token_drift import TokenDriftParams
from backdoor_pipeline.pipelines.detect.trusted_encoder import TrustedEncoderParams
from backdoor_pipeline.pipelines.evaluate.nodes import EvaluationParams
from backdoor_pipeline.pipelines.ingest.nodes import IngestParams
from backdoor_pipeline.pipelines.poison.registry import PoisonParams
from backdoor_pipeline.pipelines.report.nodes import ReportParams
from backdoor_pipeline.pipelines.train.adapter import AdapterParams
from backdoor_pipeline.pipelines.train.anti_backdoor import AntiBackdoorParams
from backdoor_pipeline.pipelines.train.defended import CleanOnlyParams, DefendedTrainingParams
from backdoor_pipeline.pipelines.train.gradient_alignment import GradientAlignmentParams
from backdoor_pipeline.pipelines.train.low_rank import LowRankParams
from backdoor_pipeline.pipelines.train.moderate_fitting import ModerateFittingParams
from backdoor_pipeline.pipelines.train.observation import ObservationParams
from backdoor_pipeline.pipelines.train.pair_isolation import PairIsolationParams
from backdoor_pipeline.pipelines.train.prefix import PrefixParams
from backdoor_pipeline.pipelines.train.radial_scaling import RadialScalingParams
from backdoor_pipeline.pipelines.train.roclip import RoclipParams
from backdoor_pipeline.pipelines.unlearn.clean_contrast import CleanContrastParams
from backdoor_pipeline.pipelines.unlearn.dampening import DampeningParams
from backdoor_pipeline.pipelines.unlearn.distillation import BadTeachingParams, ScrubParams
from backdoor_pipeline.pipelines.unlearn.fine_tune import FineTuneParams
from backdoor_pipeline.pipelines.unlearn.local_forgetting import LocalForgettingParams
from backdoor_pipeline.pipelines.unlearn.neutralisation import NeutralisationParams
from backdoor_pipeline.pipelines.unlearn.recalibration import RecalibrationParams
from backdoor_pipeline.pipelines.unlearn.retraining import RetrainingParams
from backdoor_pipeline.pipelines.unlearn.token_replacement import TokenReplacementParams
from backdoor_pipeline.pipelines.unlearn.trigger_search import TriggerSearchParams
from backdoor_pipeline.pipelines.unlearn.word_forgetting import WordForgettingParams
from backdoor_pipeline.recipes import Modality

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORTHANDS = {
    "dataset": ("source.dataset",),
    "data": ("source.data",),
    "clean": ("clean_source.data",),
    "text": ("source.text",),
    "label": ("source.label",),
    "attack": ("poison.attack",),
    "trigger": ("poison.badnets.triggers", "poison.addsent.sentence"),
    "poison_rate": ("poison.rate",),
    "label_mode": ("poison.label_mode",),
    "target_label": ("poison.target_label",),
    "model": ("model.name",),
    "risk": ("audit.risk",),
    "budget_minutes": ("audit.budget_minutes",),
    "repair": ("audit.repair",),
    "classifier": ("audit.classifier",),
}
COLUMNS = ("text", "label")  # that a second source has as the first, unless told otherwise
_BETWEEN_SETTINGS = re.compile(r",(?=\s*[\w.]+\s*=)")


class TrackingParams(ParameterGroup):
    """How the run appears in MLflow."""

    run_name: str | None
    run_id: str | None
    parent_run_id: str | None
    register_model: bool


class Parameters(ParameterGroup):
    """Everything that can be set, by group; the groups stand beside the code that reads them."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    fresh: bool
    data_dir: Annotated[str, Field(min_length=1)]
    modality: Modality
    detector: str | None
    unlearner: str | None
    source: SourceParams
    clean_source: SourceParams
    ingest: IngestParams
    poison: PoisonParams
    model: ModelParams
    compute: ComputeParams
    training: TrainingParams
    defended_training: DefendedTrainingParams
    low_rank: LowRankParams
    radial_scaling: RadialScalingParams
    gradient_alignment: GradientAlignmentParams
    adapter: AdapterParams
    prefix: PrefixParams
    moderate_fitting: ModerateFittingParams
    clean_only: CleanOnlyParams
    anti_backdoor: AntiBackdoorParams
    roclip: RoclipParams
    pair_isolation: PairIsolationParams
    token_drift: TokenDriftParams
    token_association: TokenAssociationParams
    confirmation: ConfirmationParams
    discovered_share: DiscoveredShareParams
    trusted_encoder: TrustedEncoderParams
    overfit_similarity: OverfitSimilarityParams
    token_replacement: TokenReplacementParams
    neutralisation: NeutralisationParams
    recalibration: RecalibrationParams
    fine_tune: FineTuneParams
    trigger_search: TriggerSearchParams
    ssd: DampeningParams
    assd: DampeningParams
    retraining: RetrainingParams
    continued_training: RetrainingParams
    scrub: ScrubParams
    bad_teaching: BadTeachingParams
    word_forgetting: WordForgettingParams
    local_forgetting: LocalForgettingParams
    clip_fine_tune: CleanContrastParams
    cleanclip: CleanContrastParams
    observation: ObservationParams
    fourier: FourierParams
    discovery: DiscoveryParams
    audit: AuditParams
    evaluation: EvaluationParams
    report: ReportParams
    tracking: TrackingParams

    @property
    def evidence(self) -> EvidenceParams:
        """Those of ``audit`` that its evidence depends on."""
        own = EvidenceParams.model_fields
        return EvidenceParams(**{name: getattr(self.audit, name) for name in own})


def parse(settings: str) -> dict[str, Any]:
    """The nested parameters of ``NAME=VALUE,NAME=VALUE``, shorthands spelt out.

    A comma parts two settings only where ``NAME=`` follows it, so that a trigger may hold commas.
    What is text stays text: ``trigger=007`` is not 7.

    Raises:
        InputError: A setting is not of the form ``NAME=VALUE``.
    """
    parsed: dict[str, Any] = {}
    for setting in filter(None, map(str.strip, _BETWEEN_SETTINGS.split(settings))):
        name, equals, value = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise InputError(f"--params: '{setting}' is not of the form NAME=VALUE")
        for path in SHORTHANDS.get(name, (name,)):
            as_text = _is_text(path) and value != "null" and not value.startswith("[")
            merge(parsed, _nested(path, value if as_text else _as_yaml(value)))
    return parsed


def _nested(path: str, value: Any) -> dict[str, Any]:
    """``{"a": {"b": value}}`` for ``a.b``."""
    name, _, rest = path.partition(".")
    return {name: _nested(rest, value) if rest else value}


def _is_text(path: str) -> bool:
    *groups, field = path.split(".")
    group = _group_at(groups) if groups else Parameters
    annotation = (
        group.model_fields[field].annotation if group and field in group.model_fields else 0
    )
    return bool({annotation, *get_args(annotation)} & {str, list[str]})


def _as_yaml(value: str) -> Any:
    read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]))
    return read["value"]


def spell_out(runtime_params: Mapping[str, Any]) -> dict[str, Any]:
    """``runtime_params``, nested, with every shorthand replaced by what it stands for."""
    spelt_out: dict[str, Any] = {}
    for name, value in runtime_params.items():
        is_shorthand = name in SHORTHANDS and not isinstance(value, dict)
        if not is_shorthand:
            merge(spelt_out, _nested(name, value))
            continue
        for path in SHORTHANDS[name]:
            meant = value
            if name == "trigger":
                meant = "" if value is None else str(value)  # Kedro reads nothing as None
            merge(spelt_out, _nested(path, meant))
    return spelt_out


def check(raw: Mapping[str, Any]) -> Parameters:
    """The typed parameters.

    Raises:
        InputError: A name is unknown or a value is out of its range; every such parameter is named.
    """
    try:
        parameters = Parameters.model_validate(_with_columns_alike(raw))
    except ValidationError as error:
        by_name = {_name(e["loc"]): _explain(e) for e in reversed(error.errors())}
        raise InputError("\n".join(reversed(by_name.values()))) from None
    poison = parameters.poison
    if parameters.modality not in poison.modalities:
        kind = " or ".join(poison.modalities)
        raise InputError(
            f"poison.attack '{poison.attack}' is for {kind} data, but modality is "
            f"'{parameters.modality}'; choose another attack, or a recipe for {kind} data"
        )
    _check_data(parameters)
    if parameters.modality == "pair":
        _check_pairs(parameters)
    if parameters.ingest.paraphrase != "none":
        return parameters
    ingest = parameters.ingest.model_copy(update={"paraphrase": poison.ready_made})
    return parameters.model_copy(update={"ingest": ingest})


def _with_columns_alike(raw: Mapping[str, Any]) -> dict[str, Any]:
    """``raw``, where the columns of ``clean_source`` that are null are called as in ``source``."""
    first, second = raw.get("source"), raw.get("clean_source")
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return dict(raw)
    alike = {name: first[name] for name in COLUMNS if name in first and second.get(name) is None}
    return {**raw, "clean_source": {**second, **alike}}


def _check_pairs(parameters: Parameters) -> None:
    if parameters.ingest.caption_templates is None:
        raise InputError(
            "ingest.caption_templates is null, but classes of pairs are asked for by templates, "
            "whether images have captions of their own or not; give some, such as 'a photo of a {}'"
        )
    if parameters.training.num_workers > 1:
        raise InputError(
            f"training.num_workers is {parameters.training.num_workers}, but dual encoders are "
            "trained by one process; set it to 1"
        )


def _check_data(parameters: Parameters) -> None:
    own = {
        "source.data": parameters.source.data,
        "clean_source.data": parameters.clean_source.data,
        "audit.classifier": parameters.audit.classifier,
    }
    for name, value in own.items():
        if value is not None and not value.strip():
            raise InputError(f"{name} is empty; name a file, a folder or a hub id, or leave it out")
    has_table = parameters.source.data or parameters.clean_source.data
    if sources.is_known(parameters.source) and not has_table:
        _check_no_columns(parameters.source)
    groups = {"source": parameters.source}
    if parameters.modality == "text":  # alone has trainings that read clean rows
        groups["clean_source"] = parameters.clean_source
    for name, group in groups.items():
        kind = sources.modality(group)
        fits = {None, parameters.modality, *(["image"] if parameters.modality == "pair" else [])}
        if kind not in fits:
            raise InputError(
                f"{name}.dataset '{group.dataset}' holds {kind} data, but modality is "
                f"'{parameters.modality}'; choose another data set, or a recipe for {kind} data "
                f"(for a stage on its own: modality={kind})"
            )


def _check_no_columns(source: SourceParams) -> None:
    """Who names columns means a table."""
    for column in COLUMNS:
        if getattr(source, column) != column:
            raise InputError(
                f"source.{column} is '{getattr(source, column)}', but no table is named: "
                f"'{source.dataset}' has no columns to choose from; name the table with data=…"
            )


def _explain(error: Mapping[str, Any]) -> str:
    name = _name(error["loc"])
    path = name.split(".")
    if error["type"] == "extra_forbidden":
        group = _group_at(path[:-1])
        known = set(group.model_fields if group else ())
        if len(path) == 1:
            known |= SHORTHANDS.keys()
        return f"there is no parameter '{name}'{did_you_mean(path[-1], known)}"
    if error["type"] == "literal_error":
        choices = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
        suggestion = did_you_mean(str(error["input"]), set(choices))
        return f"parameter {name} is '{error['input']}'{suggestion}; choose {', '.join(choices)}"
    if error["type"] == "missing":
        return f"parameter {name} is not set; give it a value in conf/ or with --params"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "value_error":  # a validator of ours, which names the value itself
        return message if message.startswith(name) else f"parameter {name}: {message}"
    return f"parameter {name} is {error['input']!r}, but {message}"


def _name(location: tuple[str | int, ...]) -> str:
    """The parameter's name; where several types are allowed, pydantic adds the one it tried."""
    path: list[str] = []
    for part in location:
        path.append(str(part))
        if _group_at(path) is None:
            break
    return ".".join(path)


def _group_at(path: list[str]) -> type[BaseModel] | None:
    group: Any = Parameters
    for part in path:
        group = group.model_fields[part].annotation if part in group.model_fields else None
        if not (isinstance(group, type) and issubclass(group, BaseModel)):
            return None
    return group


def merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    """Let the nested settings ``new`` replace those of the same name in ``into``, and no others."""
    for key, value in new.items():
        if isinstance(value, dict):
            into[key] = dict(into[key]) if isinstance(into.get(key), dict) else {}
            merge(into[key], value)
        else:
            into[key] = value

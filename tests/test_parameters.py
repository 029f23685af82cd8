"""Typed parameters: shorthands, bounds, and errors that say what to write instead."""

from __future__ import annotations

import math

import pytest

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.parameters import SHORTHANDS, Parameters, parse, spell_out
from tiny import ROOT, project_loader

CONFIGURED = sorted((ROOT / "conf").rglob("parameters*.yml"))


class TestSpellOut:
    def test_shorthands_stand_for_their_parameters(self) -> None:
        spelt = spell_out({"attack": "addsent", "seed": 3, "model": "x", "dataset": "sst2"})
        assert spelt == {
            "poison": {"attack": "addsent"},
            "seed": 3,
            "model": {"name": "x"},
            "source": {"dataset": "sst2"},
        }

    def test_a_trigger_is_a_word_or_a_sentence(self) -> None:
        expected = {"badnets": {"triggers": "7"}, "addsent": {"sentence": "7"}}
        assert spell_out({"trigger": 7}) == {"poison": expected}
        nothing = {"badnets": {"triggers": ""}, "addsent": {"sentence": ""}}
        assert spell_out({"trigger": None}) == {"poison": nothing}

    @pytest.mark.parametrize("order", [1, -1])
    def test_groups_and_shorthands_mix(self, order) -> None:
        given = [("model", {"max_length": 9}), ("attack", "addsent"), ("poison", {"rate": 0.2})]
        spelt = spell_out(dict(given[::order]))
        assert spelt["poison"] == {"attack": "addsent", "rate": 0.2}
        assert spelt["model"] == {"max_length": 9}

    def test_what_was_given_is_left_as_it_is(self) -> None:
        given = {"poison": {"rate": 0.2}, "attack": "addsent"}
        spell_out(given)
        assert given == {"poison": {"rate": 0.2}, "attack": "addsent"}

    @pytest.mark.parametrize("name", SHORTHANDS)
    def test_every_shorthand_names_parameters_that_there_are(self, name) -> None:
        for path in SHORTHANDS[name]:
            group = Parameters
            for part in path.split("."):
                group = group.model_fields[part].annotation
                assert group is not None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seed", -1, "parameter seed is -1, but should be greater than or equal to 0"),
        ("seed", 2**32, "parameter seed is 4294967296, but should be less than"),
        ("seed", "three", "parameter seed is 'three', but should be a valid integer"),
        ("seed", 1.5, "parameter seed is 1.5, but should be a valid integer"),
        ("fresh", "maybe", "parameter fresh is 'maybe', but should be a valid boolean"),
        ("data_dir", "", "parameter data_dir is ''"),
        ("poison.rate", -0.1, r"parameter poison\.rate is -0\.1, but should be greater than"),
        ("poison.rate", 1.1, r"parameter poison\.rate is 1\.1, but should be less than"),
        ("poison.rate", float("nan"), r"parameter poison\.rate is nan"),
        ("poison.rate", "lots", r"parameter poison\.rate is 'lots', but should be a valid number"),
        ("poison.target_label", -1, r"parameter poison\.target_label is -1"),
        ("poison.attack", "badnet", r"poison\.attack is 'badnet'; did you mean 'badnets'\?"),
        ("poison.attack", "zzz", "choose badnets, addsent, stylebkd, synbkd"),
        ("poison.label_mode", "mixed", r"is 'mixed'; did you mean 'mix'\?"),
        ("poison.badnets.triggers", "", r"poison\.badnets\.triggers .* give at least one word"),
        ("poison.synbkd.style", 1, r"no parameter 'poison\.synbkd\.style'"),
        ("poison.raet", 0.1, r"no parameter 'poison\.raet'; did you mean 'rate'\?"),
        ("sead", 3, r"no parameter 'sead'; did you mean 'seed'\?"),
        ("atack", "addsent", r"no parameter 'atack'; did you mean 'attack'\?"),
        ("poison.badnets.tirggers", "cf", r"did you mean 'triggers'\?"),
        ("model.max_length", 0, r"parameter model\.max_length is 0, but should be greater"),
        ("training.epochs", 0, r"parameter training\.epochs is 0"),
        ("training.learning_rate", 0, r"parameter training\.learning_rate is 0"),
        ("training.weight_decay", -1, r"parameter training\.weight_decay is -1"),
        ("token_drift.alpha", 2, r"parameter token_drift\.alpha is 2"),
        ("token_replacement.cut_scale", -1, r"parameter token_replacement\.cut_scale is -1"),
        ("token_replacement.replacement", "padd", r"did you mean 'pad'\?"),
        ("fine_tune.rows", -1, r"parameter fine_tune\.rows is -1"),
        ("evaluation.minimum_excess", 7, r"parameter evaluation\.minimum_excess is 7"),
        ("ingest.max_rows", "few", r"parameter ingest\.max_rows is 'few'"),
        ("ingest.dev_share", 1, r"parameter ingest\.dev_share is 1"),
        ("ingest", {"dev_share": 0.6, "test_share": 0.5}, "parameter ingest: dev_share 0.6 "),
        ("compute.device", "gpu", r"compute\.device is 'gpu'; .*cuda"),
        ("compute.precision", "fp16", r"did you mean '(fp32|bf16)'\?"),
        ("poison", 3, r"parameter poison is 3"),
        ("modality", "video", "parameter modality is 'video'.*choose text, image"),
        ("poison.patch.corner", "top", r"poison\.patch\.corner is 'top'; did you mean 'top-"),
        ("poison.patch.size", 5.5, r"parameter poison\.patch\.size is 5\.5"),
        ("poison.patch", {"pattern": "checker", "size": 5}, r"poison\.patch\.size 5: the checker"),
        ("poison.wanet.cross_ratio", -1, r"parameter poison\.wanet\.cross_ratio is -1"),
        ("model.width", 0, r"parameter model\.width is 0"),
        ("ingest.image_size", 0, r"parameter ingest\.image_size is 0"),
        ("training.optimiser", "adam", r"training\.optimiser is 'adam'; did you mean 'adamw'\?"),
        ("training.momentum", 1.5, r"parameter training\.momentum is 1\.5"),
        ("training.augmentation", {"padding": -1, "flip": True}, r"training\.augmentation"),
        ("discovered_share.share", 0, r"parameter discovered_share\.share is 0"),
        ("discovered_share.share", None, "discovered_share has nothing set; give share"),
        ("discovered_share", {"rows": 3, "ids": [1]}, "discovered_share has rows and ids; set one"),
        ("discovered_share.ids", [1.5], r"parameter discovered_share\.ids"),
        ("trigger_search.rho", 1.5, r"parameter trigger_search\.rho is 1\.5"),
        ("trigger_search.growth", 1, r"parameter trigger_search\.growth is 1"),
        ("trigger_search.max_steps", 0, r"parameter trigger_search\.max_steps is 0"),
        ("trigger_search.start", "first", r"trigger_search\.start is 'first'"),
        ("trigger_search.importances.quantity", "xfl", r"did you mean 'xlf'\?"),
        ("ssd.alpha", -1, r"parameter ssd\.alpha is -1"),
        ("ssd.lambda", 1, r"no parameter 'ssd\.lambda'; did you mean 'lambda_'\?"),
        ("retraining.last_layers", 0, r"parameter retraining\.last_layers is 0"),
        ("scrub.temperature", 0, r"parameter scrub\.temperature is 0"),
        ("scrub.ascent_steps", -1, r"parameter scrub\.ascent_steps is -1"),
        ("bad_teaching.alpha", 1, r"no parameter 'bad_teaching\.alpha'"),
    ],
)
def test_bad_values_get_one_clear_error(make_parameters, name, value, message) -> None:
    with pytest.raises(InputError, match=message) as error:
        make_parameters(**{name: value})
    assert len(str(error.value).splitlines()) == 1
    assert "pydantic" not in str(error.value)
    assert "type=" not in str(error.value)


def test_every_bad_value_is_named(make_parameters) -> None:
    with pytest.raises(InputError) as error:
        make_parameters(**{"seed": -1, "poison.rate": 2})
    assert len(str(error.value).splitlines()) == 2


def test_a_parameter_that_is_not_set(make_parameters) -> None:
    from backdoor_pipeline.parameters import check

    values = make_parameters().model_dump()
    del values["seed"]
    with pytest.raises(InputError, match="parameter seed is not set; give it a value"):
        check(values)


@pytest.mark.parametrize(("attack", "kind"), [("stylebkd", "style"), ("synbkd", "syntax")])
def test_paraphrase_attacks_ask_for_paraphrases(make_parameters, attack, kind) -> None:
    assert make_parameters(**{"poison.attack": attack}).ingest.paraphrase == kind
    assert make_parameters().ingest.paraphrase == "none"
    made = make_parameters(
        **{
            "poison.attack": "stylebkd",
            "poison.stylebkd.generate": True,
            "poison.stylebkd.style_model": "folder",
        }
    )
    assert made.ingest.paraphrase == "none"


@pytest.mark.parametrize(
    "env",
    sorted({path.parent.relative_to(ROOT / "conf").as_posix() for path in CONFIGURED}),
)
@pytest.mark.parametrize("modality", ["text", "image", "pair"])
def test_every_environment_is_valid(env, modality) -> None:
    parameters = project_loader({"modality": modality}, env).typed_parameters
    assert parameters.modality == modality
    assert modality in parameters.poison.modalities


@pytest.mark.parametrize(
    ("env", "bands", "alpha", "rank", "rate", "epochs", "clean_rows"),
    [  # MuScleLoRA's published configurations, section 3 of its specification
        ("paper", [1, 4, 8, 12, 16, 20, 24, 28], 6, 8, 2e-5, 10, 96),
        ("paper/bert-large", [1, 2, 3, 4, 5, 6, 7, 8, 9], 6, 8, 2e-5, 10, 96),
        ("paper/roberta-base", [1, 2, 4, 6, 8, 10, 12, 14, 16], 6, 8, 2e-5, 10, 96),
        ("paper/roberta-large", [1, 2, 3, 4, 5, 6, 7, 8, 9], 6, 8, 2e-5, 10, 96),
        ("paper/llama-2-7b", [1, 2, 3, 4], 4, 2, 1e-5, 5, 128),
        ("paper/gpt2-xl", [1, 2, 3, 4], 4, 2, 1e-5, 5, 128),
    ],
)
def test_paper_settings_of_each_family(env, bands, alpha, rank, rate, epochs, clean_rows) -> None:
    made = project_loader(env=env).typed_parameters
    scaling, low_rank, training = made.radial_scaling, made.low_rank, made.defended_training
    assert (scaling.bands, scaling.alpha, scaling.rank) == (bands, alpha, 1)
    assert scaling.zero_init is False
    assert (low_rank.rank, low_rank.alpha, low_rank.dropout) == (rank, 4 * rank, 0)
    assert low_rank.learning_rate == training.optimisation.learning_rate == rate
    assert not low_rank.train_head
    assert (training.optimisation.epochs, training.clean_rows) == (epochs, clean_rows)
    assert training.optimisation.batch_size == made.gradient_alignment.batch_size
    assert made.gradient_alignment.rule == "published"


@pytest.mark.parametrize(
    ("env", "steps", "short_steps"),
    [("paper/resnet9", 4000, 1000), ("paper/wrn-28-10", 6000, 1500)],
)
def test_paper_settings_of_each_network_of_images(env, steps, short_steps) -> None:
    """Potion's published configurations, sections 2 to 8 of its specification."""
    made = project_loader(env=env).typed_parameters
    assert (made.modality, made.model.name, made.model.width) == ("image", env.split("/")[1], 1)
    assert (made.poison.rate, made.poison.label_mode, made.poison.target_label) == (0.01, "mix", 0)
    patch = made.poison.patch
    assert (patch.size, patch.pattern, patch.corner, patch.margin) == (
        3,
        "white",
        "bottom-right",
        0,
    )
    assert (made.training.augmentation.padding, made.training.augmentation.flip) == (4, True)
    fittings = {
        steps: (made.training, made.retraining.optimisation),
        short_steps: (
            *(made.continued_training.optimisation, made.scrub.optimisation),
            made.bad_teaching.optimisation,
        ),
    }
    for n_steps, groups in fittings.items():
        for group in groups:
            assert (group.optimiser, group.momentum, group.weight_decay) == ("sgd", 0.9, 5e-4)
            assert (group.batch_size, group.warmup_share) == (512, 0.01)
            assert (group.decay_span, group.max_gradient_norm) == (1.25, None)
            per_epoch = math.ceil((1 - made.ingest.dev_share) * 50_000 / group.batch_size)
            assert abs(per_epoch * group.epochs - n_steps) <= per_epoch / 2  # whole epochs
    assert made.training.learning_rate == made.retraining.optimisation.learning_rate == 0.025
    assert made.continued_training.optimisation.learning_rate == 0.025
    assert made.scrub.optimisation.learning_rate == 0.0025
    assert (made.scrub.temperature, made.scrub.ascent_steps) == (4, 100)
    assert made.bad_teaching.temperature == 1
    search, measured = made.trigger_search, made.trigger_search.importances
    assert (search.rho, search.start, search.growth, search.max_steps) == (
        0.2,
        "published",
        1.1,
        500,
    )
    assert (measured.quantity, measured.estimator, measured.rows) == ("xlf", "batch", None)
    assert measured.batch_size == 512


def test_whole_networks_on_a_gpu() -> None:
    made, base = (
        project_loader({"modality": "image"}, env).typed_parameters for env in ("gpu", "base")
    )
    assert (made.model.width, made.compute.device) == (1, "cuda")
    assert made.training == base.training.model_copy(update={"batch_size": 128})
    for name in ("retraining", "continued_training", "scrub", "bad_teaching"):
        one, other = (getattr(group, name) for group in (made, base))
        optimisation = other.optimisation.model_copy(update={"batch_size": 128})
        assert one == other.model_copy(update={"optimisation": optimisation})


def test_parameters_are_frozen(make_parameters) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_parameters().seed = 3


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("seed=3,attack=addsent", {"seed": 3, "poison": {"attack": "addsent"}}),
        ("model=a/b,model.max_length=256", {"model": {"name": "a/b", "max_length": 256}}),
        ("model.max_length=256,model=a/b", {"model": {"max_length": 256, "name": "a/b"}}),
        ("text=0,label=1", {"source": {"text": "0", "label": "1"}}),
        ("source.split_column=null", {"source": {"split_column": None}}),
        ("data_dir=2026", {"data_dir": "2026"}),
        ("training.dropout=null,fresh=true", {"training": {"dropout": None}, "fresh": True}),
        ("token_drift.excluded_tokens=[a, b]", {"token_drift": {"excluded_tokens": ["a", "b"]}}),
        ("", {}),
    ],
)
def test_settings_of_the_command_line(written, expected) -> None:
    assert parse(written) == expected


@pytest.mark.parametrize("trigger", ["007", "1e5", "well, to be honest", "x = y", "null and void"])
def test_a_trigger_is_taken_as_it_is_written(trigger) -> None:
    poison = parse(f"trigger={trigger},seed=1")["poison"]
    assert poison == {"badnets": {"triggers": trigger}, "addsent": {"sentence": trigger}}


@pytest.mark.parametrize("written", ["seed", "=3", "oops,seed=1"])
def test_settings_have_a_name_and_a_value(written) -> None:
    with pytest.raises(InputError, match="not of the form NAME=VALUE"):
        parse(written)


def test_pairs_need_templates_and_one_process(make_parameters) -> None:
    with pytest.raises(InputError, match=r"caption_templates is null, but classes of pairs"):
        make_parameters(**{"modality": "pair", "ingest.caption_templates": None})
    with pytest.raises(InputError, match=r"num_workers is 2, but dual encoders"):
        make_parameters(**{"modality": "pair", "training.num_workers": 2})


def test_a_sentence_may_repeat_a_word(make_parameters) -> None:
    sentence = "the cat sat on the mat"
    changes = {"poison.addsent.sentence": sentence, "poison.badnets.triggers": sentence}
    parameters = make_parameters(**{"poison.attack": "addsent", **changes})
    assert parameters.poison.addsent.sentence == sentence
    with pytest.raises(InputError, match="repeats a word"):
        make_parameters(**{"poison.attack": "badnets", **changes})


@pytest.mark.parametrize(
    ("modality", "attack", "other"),
    [
        ("text", "patch", "image or pair"),
        ("text", "wanet", "image or pair"),
        ("image", "badnets", "text"),
        ("pair", "badnets", "text"),
        ("image", "trojvqa", "pair"),
    ],
)
def test_an_attack_is_of_the_datas_modality(make_parameters, modality, attack, other) -> None:
    with pytest.raises(InputError) as error:
        make_parameters(**{"modality": modality, "poison.attack": attack})
    assert str(error.value) == (
        f"poison.attack '{attack}' is for {other} data, but modality is '{modality}'; choose "
        f"another attack, or a recipe for {other} data"
    )


@pytest.mark.parametrize(
    ("modality", "name", "other"),
    [
        ("text", "source.dataset", "mnist_digits"),
        ("text", "source.dataset", "cifar10@repaired"),
        ("text", "source.dataset", "image_folder"),
        ("text", "clean_source.dataset", "mnist_digits"),
        ("image", "source.dataset", "rotten_tomatoes"),
        ("image", "source.dataset", "sst2@paper"),
        ("image", "source.dataset", "huggingface"),
    ],
)
def test_data_are_of_the_modality(make_parameters, modality, name, other) -> None:
    kind = "image" if modality == "text" else "text"
    with pytest.raises(InputError) as error:
        make_parameters(**{"modality": modality, name: other})
    assert str(error.value) == (
        f"{name} '{other}' holds {kind} data, but modality is '{modality}'; choose another data "
        f"set, or a recipe for {kind} data (for a stage on its own: modality={kind})"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("data=,text=body", "source.data is empty; name a file"),
        ("data=x.csv,clean= ", "clean_source.data is empty"),
        ("data=x.csv,classifier=", "audit.classifier is empty"),
        ("text=body", "source.text is 'body', but no table is named.*data="),
        ("dataset=hsol@repaired,text=body", "'body', but no table is named.*data="),
        ("label=stars", "source.label is 'stars', but no table is named"),
    ],
)
def test_what_was_meant_to_name_data_names_some(make_parameters, settings, message) -> None:
    """Else the packaged texts would be looked at in place of the user's own."""
    with pytest.raises(InputError, match=message):
        make_parameters(**parse(settings))


def test_columns_may_be_those_of_clean_rows_alone(make_parameters) -> None:
    assert make_parameters(**parse("clean=x.csv,text=body")).clean_source.text == "body"


def test_clean_rows_of_texts_do_not_hinder_images(make_parameters) -> None:
    assert make_parameters(**{"modality": "image", "clean_source.dataset": "imdb"})


def test_attacks_on_images_ask_for_no_paraphrases(make_parameters) -> None:
    for attack in ("patch", "blended", "sig", "wanet", "ssba"):
        made = make_parameters(**{"modality": "image", "poison.attack": attack})
        assert made.ingest.paraphrase == "none"
        assert made.poison.settings == getattr(made.poison, attack)

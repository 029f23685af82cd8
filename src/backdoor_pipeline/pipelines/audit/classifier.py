"""A finished classifier, whose effect is measured in place of a model that is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backdoor_pipeline.errors import InputError
from backdoor_pipeline.modelling.loading import positions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backdoor_pipeline.modelling.bundle import ModelBundle


NAMED = 20  # classes in a message, at most


def of_classes(bundle: ModelBundle, label_names: Sequence[str], max_length: int) -> ModelBundle:
    """The classifier, which from now on gives the classes of a table in the table's order.

    Args:
        bundle: The classifier; it is changed.
        label_names: Of the table's classes.
        max_length: Tokens per text.

    Raises:
        InputError: It has other classes, or reads fewer tokens.
    """
    model: Any = bundle.model
    names = [name for _, name in sorted(model.config.id2label.items())]
    order = _order(names, label_names)
    if order is None:
        raise InputError(
            f"audit.classifier: its classes are {_listed(names)}, those of the table "
            f"{_listed(label_names)}; they must be the same ones, or, if it has no names for them "
            "(LABEL_0, …) or the table numbers them from 0, as many; name them in id2label of its "
            "config.json"
        )
    limit = positions(model.base_model)
    if limit and max_length > limit:
        raise InputError(
            f"model.max_length {max_length} is beyond the {limit} positions of audit.classifier; "
            "lower it"
        )

    def reorder(_module: Any, _inputs: Any, output: Any) -> Any:
        output.logits = output.logits[:, order]
        return output

    model.register_forward_hook(reorder)
    return bundle


def _order(names: Sequence[str], label_names: Sequence[str]) -> list[int] | None:
    """The output of the classifier that each class of the table has; None: they do not match.

    Names decide, whatever their case; numbers where one of the two has no other names.
    """
    own, wanted = ([str(name).casefold() for name in every] for every in (names, label_names))
    numbers = list(range(len(wanted)))
    if len(own) != len(wanted):
        return None
    if len(set(wanted)) == len(wanted) and set(own) == set(wanted):
        return [own.index(name) for name in wanted]
    nameless = own == [f"label_{i}" for i in numbers] or wanted == [str(i) for i in numbers]
    return numbers if nameless else None


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names):,})" if len(names) > NAMED else ""
    return ", ".join(map(repr, names[:NAMED])) + more

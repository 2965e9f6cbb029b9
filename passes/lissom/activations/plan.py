"""Winner rates and weights in one plan.

Masks cost most on a network whose weights are pruned, and weights depend on the budget. So a plan is made in turns:

1. The rates are measured on the network as it is, and weights and rates chosen together (`rates.choose_together`).
2. The weights of that plan are put into the network, the rates are measured again on it, and both are chosen anew.

Rates save multiply-accumulates and nothing else, so that without a limit on those none is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from lissom.activations.finish import Finish, Masked, finished, put_masks
from lissom.activations.insert import Mask, insert
from lissom.activations.judge import Judge, Sample
from lissom.activations.masks import find_masks
from lissom.activations.price import judged_samples, price_rates, unmeasured
from lissom.activations.rates import Choose, Limits, Rates, choose_together, rate_of
from lissom.activations.survey import Found
from lissom.activations.worth import Compare, slow_groups
from lissom.canonical import Canonical
from lissom.data import Feeds
from lissom.graph.model import Model
from lissom.kinds import menu
from lissom.options import Menu, Option, Plan, Refusal
from lissom.recipe_tables import Winners

TURNS = 1
"""How often the rates are measured on pruned weights, and chosen anew."""

Prune = Callable[[Mapping[str, Option]], Model]
"""The network with the weights of some options."""


@dataclass(frozen=True)
class Activations:
    """The activations of a model as sites beside its layers.

    Attributes:
        canonical: the model.
        asked: which rates and masks.
        found: its activations.
        rates: the sites with their menus, and those of the layers.
        samples: what masks are measured on and thresholds are found from, batch by batch.
        judge: says what copies of the model are worth, once rates are to be measured.
        compare: times two models, where masks that are not faster are to be left out.
    """

    canonical: Canonical
    asked: Winners
    found: Found
    rates: Rates
    samples: Sequence[Sample] = ()
    judge: Judge | None = None
    compare: Compare | None = None

    @classmethod
    def of(cls, canonical: Canonical, asked: Winners, found: Found, menus: Sequence[Menu]) -> Activations:
        """Those that were found, beside the menus of the layers; nothing is measured.

        Layers without a menu stay as they are, but what they read may be masked: they have one option.
        """
        offered = {offer.site: offer for offer in menus}
        metric = next((offer.dense.metric for offer in menus), "")
        of_all = [
            offered.get(layer.name) or menu(layer.name, layer.weight, layer.geometry, metric, (), layer.readers)
            for layer in canonical.layers
        ]
        return cls(canonical, asked, found, unmeasured(found, of_all))

    def priced(self, menus: Sequence[Menu]) -> Activations:
        """The same with other menus of the same sites."""
        return replace(self, rates=replace(self.rates, menus=menus))

    def measured(self, samples: Sequence[Sample], compare: Compare | None) -> Activations:
        """The same with rates that were measured on the model as it is.

        Args:
            samples: calibration samples, with labels where there are some.
            compare: times two models, where masks that are not faster are to be left out.

        Raises:
            UsageError: an activation or an output is NaN or infinite.
        """
        model, size = self.canonical.model, len(next(iter(self.canonical.feeds.values())))
        macs = self.canonical.totals.macs // size
        judge = Judge(model, judged_samples(samples, macs, len(self.found.groups), len(self.asked.rates)))
        found = price_rates(model, self.found, self._of_layers(self.rates.menus), self.asked, judge)
        return replace(self, rates=found.rates, samples=samples, judge=judge, compare=compare)

    def plan(self, choose: Choose, limits: Limits, prune: Prune) -> Plan:
        """Chooses weights and rates.

        Args:
            choose: the allocator.
            limits: upper bound of the sites' summed cost in each limited resource.
            prune: puts the weights of a plan into the model.

        Raises:
            GoalMissed: no plan was found within the limits.
        """
        layers = self._of_layers(self.rates.menus)
        if "macs" not in limits:
            return choose(layers, limits)
        plan = choose_together(self.rates, choose, limits)
        for _ in range(TURNS if self.found.groups else 0):
            assert self.judge is not None
            found = price_rates(prune(plan.options), self.found, layers, self.asked, self.judge)
            curves = [{"metric": self.judge.metric, **curve.to_json()} for curve in found.curves]
            plan = replace(choose_together(found.rates, choose, limits), sensitivity=curves)
        return plan

    def masks(self, model: Model, plan: Plan, without: Collection[str] = ()) -> dict[str, Mask]:
        """The masks of a plan, by tensor, with thresholds found on the network with its weights.

        Args:
            model: that network, without masks.
            plan: the plan.
            without: groups that have none, by site.
        """
        rates = {
            member.tensor: rate_of(plan.options[site])
            for site, group in self.found.groups.items()
            if site in plan.changed and site not in without
            for member in group
        }
        return find_masks(model, self.found, rates, self.asked, self.batches)

    def slow(self, plan: Plan, edited: Model, expected: Model, finish: Finish) -> dict[str, Sequence[Refusal]]:
        """The groups whose masks are to be left out because they do not make the network faster (`worth`).

        They are found behind surgery and before the refit, so that the refit sees the masks that stay and no others.
        What is finished has the zeros of the refitted network, and those decide how long it takes.
        """
        if self.compare is None:
            return {}
        masks = self.masks(expected, plan)
        return slow_groups(
            self.found, masks, lambda chosen: finished(self.found, chosen, edited, finish)[0], self.compare
        )

    def masked(self, plan: Plan, model: Model, without: Collection[str] = ()) -> tuple[Model, list[str]]:
        """The canonical model with the masks of a plan, thresholds found on `model`, and which tensors they are on."""
        masks, copy = self.masks(model, plan, without), self.canonical.model.copy()
        declined = {refusal.site for refusal in insert(copy, self.found.sites.sites, masks, self.found.shapes)}
        return copy, [name for name in masks if name not in declined]

    def put(
        self, plan: Plan, slow: Mapping[str, Sequence[Refusal]], edited: Model, expected: Model, finish: Finish
    ) -> Masked:
        """The finished network of a plan without the masks of slow groups (`finish.put_masks`)."""
        masks = self.masks(expected, plan, slow)
        removes, batches = self.asked.remove_silent, self.batches
        put = put_masks(self.canonical, self.found, masks, edited, expected, plan.options, finish, batches, removes)
        told = [refusal for refusals in slow.values() for refusal in refusals]
        return replace(put, slow=frozenset(slow), refusals=[*told, *put.refusals])

    @property
    def extents(self) -> dict[str, tuple[int, ...]]:
        """The shape of the first activation of each group without the batch, by site."""
        return {site: self.found.shapes[group[0].tensor][1:] for site, group in self.found.groups.items()}

    @property
    def batches(self) -> list[Feeds]:
        """The samples without labels."""
        return [feeds for feeds, _ in self.samples]

    def _of_layers(self, menus: Sequence[Menu]) -> list[Menu]:
        return [menu for menu in menus if menu.site not in self.found.groups]

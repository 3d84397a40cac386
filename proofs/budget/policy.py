"""What people decide in a random history: budgets, overrides, allocations, pauses, settings; and what follows at once.

Kept by plain rules in memory, beside the service that is told the same. The spends are in `machine`.
"""

from typing import Any, ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from proofs.budget.model import (
    DAY_US,
    DIMENSIONS,
    KINDS,
    STEPS_US,
    SUBJECTS,
    ZONES,
    Held,
    Limit,
    Stop,
    World,
    is_within,
)
from services.budget.allocations import Allocations, Request, Wanted
from services.budget.domain.alerts import AlertCause
from services.budget.domain.allocation import Share
from services.budget.domain.budgets import FOREVER_US, Dimension, OnExceed, OverAllocation, Selector
from services.budget.domain.org_settings import FIELDS, OrgSettings, SettingsDraft
from services.budget.domain.pauses import ResumeMode
from services.budget.domain.policy import Draft
from services.budget.overrides import Grant, Overrides
from services.budget.paused import Paused
from services.budget.settings_of_orgs import SettingsOfOrgs
from services.kit.errors import PurseError
from services.kit.subject import parse
from services.kit.windows import WindowKind, WindowSpec

REACTIONS = st.sampled_from((0, *OnExceed, OnExceed.BLOCK, OnExceed.PAUSE))
RESUMES = st.sampled_from((0, *ResumeMode))
THRESHOLDS = st.sampled_from(((), (50, 100), (100,), (20, 80, 95, 150)))
BUDGET = st.tuples(
    st.sampled_from(DIMENSIONS),
    st.integers(0, 80),
    st.tuples(REACTIONS, RESUMES, THRESHOLDS),
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(ZONES),
    st.sampled_from(("", "", "m1")),
    st.tuples(st.sampled_from((None, 10, 40)), st.booleans()),
)
Reaction = tuple[int, int, tuple[int, ...]]
Drawn = tuple[Dimension, int, Reaction, int, str, str, tuple[int | None, bool]]
Place = tuple[Limit, int]
"""A window of a budget."""
AlertKey = tuple[str, int, int, int]
"""Budget, window, threshold and generation."""


class PolicyMachine(RuleBasedStateMachine):
    """The rules of definitions; a machine of spends goes on from here."""

    world: ClassVar[World]

    def begin_empty(self) -> None:
        """An organisation without anything."""
        self.world.orgs += 1
        self.org, self.root = f"o{self.world.orgs}", f"orgs/o{self.world.orgs}"
        self.limits: dict[str, Limit] = {}
        self.stops: list[Stop] = []
        self.alerts: dict[AlertKey, tuple[int, int, int]] = {}
        self.settings = OrgSettings()
        self.seen: dict[Place, tuple[int, int, int]] = {}
        self.defined: set[Place] = set()
        self.new_bound: set[Place] = set()
        self.count = self.now_us = 0
        self.was_below = False

    def move(self, by_us: int) -> None:
        """Moves the clock."""
        self.now_us += by_us
        self.world.run(self.world.owner.execute("UPDATE shim.clock SET us = $1", self.now_us))

    def next_id(self) -> str:
        """An id that no other thing of this run has."""
        self.count += 1
        return f"i{self.count}"

    def refusal(self, awaitable: Any) -> str:
        """Why the service refuses; empty: it does not."""
        try:
            self.world.run(awaitable)
        except PurseError as error:
            return error.reason
        return ""

    # What a decision does besides.

    def applying(self, subject: str, model: str) -> list[Limit]:
        """The budgets that an estimate may turn out to count on."""
        return [one for one in self.limits.values() if one.counts(subject, model, actual=False)]

    def touch_now(self, subject: str, model: str) -> None:
        """What a spend makes rows for."""
        for one in self.applying(subject, model):
            self.touch(one, one.key_at(self.now_us))

    def touch(self, limit: Limit, key: int, *, is_defined: bool = True) -> None:
        """A decision looks at a window: from here on it is carried something, and so is the one after it."""
        self.seen.setdefault((limit, key), self.state_of(limit, key))
        limit.window(key)
        if is_defined:
            self.defined.add((limit, key))
        if limit.cap is None or not limit.alive:
            return
        start_us, end_us = limit.bounds(key)
        if end_us <= self.now_us:
            after = limit.key_at(end_us)
            self.seen.setdefault((limit, after), self.state_of(limit, after))
            limit.window(after)
            self.defined.add((limit, after))
            self.new_bound.add((limit, after))
        if limit.from_us < start_us and key not in limit.bound:
            before = limit.key_at(start_us - 1)
            limit.window(before)
            self.new_bound.add((limit, before))
        self.new_bound.add((limit, key))

    def touch_holds(self, held: Held | None) -> None:
        """A decision looks at what a reservation holds."""
        for limit, hold in held.holds.items() if held is not None else ():
            self.touch(limit, hold[0], is_defined=False)

    def state_of(self, limit: Limit, key: int) -> tuple[int, int, int]:
        """What a decision may change of a window; a row that is not there has nothing."""
        window = limit.used.get(key)
        return (window.spent, window.reserved, window.carried) if window else (0, 0, -1)

    def finish(self, *, is_use: bool = False) -> None:
        """Carries over, and alerts of what use has reached."""
        lowered: set[Place] = set()
        for limit in self.limits.values():
            for key, window in limit.used.items() if limit.alive and limit.cap is not None else ():
                amount = limit.left_over(window)
                window.rises += amount > window.carried
                if amount < window.carried:
                    lowered.add((limit, key))
                window.carried = amount
        for limit, key in self.defined if is_use else ():
            if self.state_of(limit, key) == self.seen[limit, key]:
                continue
            before, now = self.seen[limit, key][0], limit.used[key].spent
            has_fallen = (limit, key) in lowered or limit.has_fallen(key, self.now_us)
            most, in_force = max(before, now), limit.in_force(key, self.now_us)
            for threshold in limit.thresholds if now > before or has_fallen else ():
                is_new = has_fallen or not _reached(in_force, threshold, before)
                if is_new and _reached(in_force, threshold, most):
                    self.alert(limit, key, threshold, most, AlertCause.USE)
        for limit, key in self.new_bound:
            limit.bound.add(key)
        self.was_below |= any(window.spent < 0 for one in self.limits.values() for window in one.used.values())
        self.seen, self.defined, self.new_bound = {}, set(), set()

    def alert(self, limit: Limit, key: int, threshold: int, spent: int, cause: AlertCause) -> None:
        """Once a budget, window, threshold and generation."""
        name = (limit.name, key, threshold, limit.generation_of(key))
        self.alerts.setdefault(name, (limit.in_force(key, self.now_us), spent, int(cause)))

    def spend(self, limit: Limit, key: int, amount: int) -> None:
        """Use, which pauses where it reaches the limit."""
        window = limit.window(key)
        window.spent += amount
        if amount > 0:
            self.reach(limit, key)

    def reach(self, limit: Limit, key: int) -> None:
        """Pauses where use has reached the limit."""
        if 0 < limit.peek(key).spent >= limit.in_force(key, self.now_us):
            self.stop(limit, key)

    def stop(self, limit: Limit, key: int) -> None:
        """The pause that a PAUSE budget makes, once a window and generation."""
        window, generation = limit.window(key), limit.generation_of(key)
        if limit.on_exceed is OnExceed.PAUSE and window.paused < generation:
            window.paused = generation
            until_us = limit.bounds(key)[1] if limit.resume is ResumeMode.WINDOW_END else FOREVER_US
            self.stops.append(Stop(limit.subject, limit, key, generation, until_us))

    def deny(self, limit: Limit, asked: int) -> None:
        """The first denial of what would fit an empty window alerts and pauses."""
        key = limit.key_at(self.now_us)
        window, generation = limit.window(key), limit.generation_of(key)
        if asked > limit.in_force(key, self.now_us):
            return
        if window.denied < generation:
            window.denied = generation
            self.alert(limit, key, 100, window.spent, AlertCause.DENIAL)
        self.stop(limit, key)

    def stopping(self, subject: str) -> list[Stop]:
        """The pauses that stop a subject now; those of budgets only while the budget pauses at all."""
        return [
            one
            for one in self.stops
            if one.lasts(self.now_us)
            and is_within(subject, one.subject)
            and (one.limit is None or (one.limit.alive and one.limit.on_exceed is OnExceed.PAUSE))
        ]

    def follow(self, limit: Limit, before: int) -> None:
        """What a changed limit does to the window of now."""
        key = limit.key_at(self.now_us)
        window, in_force = limit.peek(key), limit.in_force(key, self.now_us)
        for threshold in limit.thresholds:
            if _reached(in_force, threshold, window.spent):
                self.alert(limit, key, threshold, window.spent, AlertCause.CHANGE)
        for one in self.stops:
            if one.limit is limit and one.lasts(self.now_us):
                one.ended = limit.on_exceed is not OnExceed.PAUSE or before < in_force > window.used
        if window.spent:
            self.reach(limit, key)

    # What people do.

    def edges(self) -> list[tuple[int, str]]:
        """When overrides and pauses end within a month, and whose they are."""
        found = [(until_us, one.subject) for one in self.limits.values() for _, _, until_us in one.raises if one.alive]
        found += [(one.until_us, one.subject) for one in self.stops]
        return [edge for edge in found if self.now_us < edge[0] <= self.now_us + 31 * DAY_US]

    @rule(step=st.sampled_from(STEPS_US))
    def time_passes(self, step: int) -> None:
        """Later."""
        self.move(step)

    @rule(at=st.sampled_from(SUBJECTS), drawn=BUDGET)
    def create(self, at: str, drawn: Drawn) -> None:
        """A budget; what it does not say is as the organisation has set it."""
        dimension, limit, (exceed, resume, thresholds), kind, zone, model, (cap, lax) = drawn
        currency = "USD" if dimension is Dimension.COST else ""
        selector = Selector(models=(model,)) if model else None
        cap = None if KINDS[kind] is WindowKind.LIFETIME else cap
        draft = Draft(
            "", int(dimension), currency, limit, kind, zone, 1, 1, exceed, thresholds, selector, cap,
            OverAllocation.ALERT if lax else 0, resume,
        )  # fmt: skip
        made = self.world.run(
            self.world.definitions.create(parse(self.root + at), self.next_id(), draft, validate_only=False)
        )
        ours = self.settings
        self.limits[made.name] = Limit(
            made.name, self.root + at, dimension, limit, OnExceed(exceed or ours.default_on_exceed),
            ResumeMode(resume or ours.default_resume), thresholds or ours.default_thresholds,
            WindowSpec(KINDS[kind], zone), self.now_us, model, cap, lax,
        )  # fmt: skip

    def draw_limit(self, data: st.DataObject) -> Limit:
        """Any budget that is not deleted."""
        return self.limits[data.draw(st.sampled_from(sorted(n for n, one in self.limits.items() if one.alive)))]

    def shares(self, limit: Limit) -> list[Limit]:
        """What is allocated out of a budget."""
        return [one for one in self.limits.values() if one.parent is limit and one.alive]

    @precondition(lambda self: any(one.alive for one in self.limits.values()))
    @rule(data=st.data(), limit=st.integers(0, 60), exceed=st.sampled_from((None, None, *OnExceed)))
    def change(self, data: st.DataObject, limit: int, exceed: OnExceed | None) -> None:
        """Another limit, maybe another reaction."""
        found = self.draw_limit(data)
        subject, id_ = found.name.split("/budgets/")
        draft = Draft("", 0, "", limit, 0, "", 0, 0, exceed or 0, (), None)
        mask = frozenset({"limit_amount"} | ({"on_exceed"} if exceed else set()))
        why = self.refusal(
            self.world.definitions.update(parse(subject), id_, draft, mask, "", validate_only=False, by="p")
        )
        shares, parent = self.shares(found), found.parent
        too_little = bool(shares) and limit < found.limit and sum(one.limit for one in shares) > limit
        too_much = parent is not None and limit > found.limit and (
            sum(one.limit for one in self.shares(parent)) - found.limit + limit > parent.limit
        )  # fmt: skip
        if (too_little and not found.lax) or (too_much and parent is not None and not parent.lax):
            assert why == "OVER_ALLOCATED"
            return
        assert not why
        if found.cap is not None:
            found.window(found.key_at(self.now_us))
        before = found.in_force(found.key_at(self.now_us), self.now_us)
        found.generation += limit > found.limit
        found.limit, found.on_exceed = limit, exceed or found.on_exceed
        self.follow(found, before)

    @precondition(lambda self: sum(one.alive for one in self.limits.values()) > 2)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """A budget less, unless others were carved out of it."""
        found = self.draw_limit(data)
        subject, id_ = found.name.split("/budgets/")
        why = self.refusal(self.world.definitions.delete(parse(subject), id_, "", by="p"))
        assert why == ("HAS_ALLOCATIONS" if self.shares(found) else "")
        if not why:
            found.alive = False
            for one in self.stops:
                one.ended = one.ended or (one.limit is found and one.lasts(self.now_us))

    @precondition(lambda self: any(one.alive for one in self.limits.values()))
    @rule(data=st.data(), amount=st.integers(1, 40), lasting=st.sampled_from(STEPS_US))
    def grant(self, data: st.DataObject, amount: int, lasting: int) -> None:
        """A raise for some time, asked for twice."""
        found = self.draw_limit(data)
        subject, id_ = found.name.split("/budgets/")
        grant = Grant(self.next_id(), amount, self.now_us + lasting, "why", "p", "", "p", b"x")
        for _ in range(2):
            asked = Overrides(self.world.pool).grant(parse(subject), id_, grant, validate_only=False)
            assert self.refusal(asked) == ""
        before = found.in_force(found.key_at(self.now_us), self.now_us)
        found.generation += 1
        found.raises.append((amount, self.now_us, self.now_us + lasting))
        self.follow(found, before)

    @precondition(lambda self: any(one.alive for one in self.limits.values()))
    @rule(data=st.data(), amount=st.integers(0, 40), anew=st.booleans())
    def allocate(self, data: st.DataObject, amount: int, anew: bool) -> None:  # noqa: FBT001 - drawn by the rule
        """Carves a budget out of another, or gives one of its shares another amount; asked for twice."""
        parent = self.draw_limit(data)
        below = [
            at for at in SUBJECTS if self.root + at != parent.subject and is_within(self.root + at, parent.subject)
        ]
        if not below:
            return
        shares = self.shares(parent)
        child = None if anew or not shares else data.draw(st.sampled_from(shares))
        name = child.name if child else f"{self.root}{data.draw(st.sampled_from(below))}/budgets/{self.next_id()}"
        subject, id_ = parent.name.split("/budgets/")
        at, _, of = name.rpartition("/budgets/")
        wanted = Wanted(parse(subject), id_, [Share(parse(at), of, amount)], "")
        request = Request(self.next_id(), b"x", lambda _done: b"done")
        why = [self.refusal(Allocations(self.world.pool).allocate(wanted, request)) for _ in range(2)]
        expected = self.refused_share(parent, child, amount)
        assert why == [expected] * 2
        if expected:
            return
        if child is None:
            child = self.limits[name] = Limit(
                name, at, parent.dimension, amount, parent.on_exceed, parent.resume, parent.thresholds, parent.spec,
                self.now_us, parent.model, parent=parent,
            )  # fmt: skip
        elif child.cap is not None:
            child.window(child.key_at(self.now_us))
        before = child.in_force(child.key_at(self.now_us), self.now_us)
        child.generation += amount > child.limit
        child.limit = amount
        self.follow(child, before)

    def refused_share(self, parent: Limit, child: Limit | None, amount: int) -> str:
        """Why a share cannot have this amount."""
        before = sum(one.limit for one in self.shares(parent))
        had = child.limit if child else 0
        if child and amount < had and amount < child.peek(child.key_at(self.now_us)).used:
            return "ALLOCATION_IN_USE"
        total = before - had + amount
        if total > before and total > parent.limit and not parent.lax:
            return "OVER_ALLOCATED"
        below = sum(one.limit for one in self.shares(child)) if child else 0
        return "OVER_ALLOCATED" if child and amount < had and below > amount and not child.lax else ""

    @rule(at=st.sampled_from(SUBJECTS), resume=st.booleans())
    def person(self, at: str, resume: bool) -> None:  # noqa: FBT001 - drawn by the rule
        """Pauses a subject, or ends all its pauses."""
        subject, paused = self.root + at, Paused(self.world.pool)
        own = [one for one in self.stops if one.subject == subject and one.lasts(self.now_us)]
        if resume:
            why = self.refusal(paused.resume(parse(subject), "", by="p", validate_only=False))
            assert why == ("" if own else "NOT_PAUSED")
            for one in own:
                one.ended = True
            return
        assert self.refusal(paused.pause(parse(subject), "why", by="p", validate_only=False)) == ""
        if all(one.limit is not None for one in own):
            number = 1 + sum(one.limit is None and one.subject == subject for one in self.stops)
            self.stops.append(Stop(subject, generation=number))

    @rule(reaction=st.tuples(REACTIONS, RESUMES, THRESHOLDS), deny=st.sampled_from((False, False, True)))
    def set_defaults(self, reaction: Reaction, deny: bool) -> None:  # noqa: FBT001 - drawn by the rule
        """What holds for the whole organisation."""
        draft = SettingsDraft(*reaction, deny, False, 0, 0)  # noqa: FBT003 - as the contract has them
        update = SettingsOfOrgs(self.world.pool).update(self.org, draft, FIELDS, "", by="p", validate_only=False)
        self.settings = self.world.run(update)
        assert self.settings.default_thresholds == (reaction[2] or (50, 80, 95, 100))
        assert (self.settings.default_on_exceed, self.settings.default_resume) == (reaction[0] or 1, reaction[1] or 1)


def _reached(limit: int, threshold: int, spent: int) -> bool:
    return spent > 0 and spent * 100 >= threshold * limit

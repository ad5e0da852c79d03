"""Scopes of many threads and tasks on one model, and how they are carried, closed, forgotten."""

import asyncio
import concurrent.futures
import contextvars
import gc
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import HookedModel, carry
from tenterhook.hooks import Controller, Detector

ONE = torch.ones(1, 2)
THREADS, EACH = 8, 100


class _Tokens(nn.Module):
    """Two layers over vectors of tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(torch.relu(self.first(x)))
        return out


class _Adds(Controller):
    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def modify_activations(
        self, module: nn.Module, inputs: Tensor | None, output: Tensor | None
    ) -> Tensor | None:
        return None if output is None else output + self.number


class _Sees(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Tensor] = []

    def process_activations(self, module: nn.Module, input: Any, output: Any) -> None:
        self.calls.append(output.detach())


@pytest.fixture(autouse=True)
def impatient_threads() -> Iterator[None]:
    """Have threads take turns far more often than they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def model() -> HookedModel:
    """A small model."""
    torch.manual_seed(0)
    return tenterhook.attach(_Tokens())


def expected(model: HookedModel, x: Tensor, add: float, at: int | None = None) -> list[Tensor]:
    """Return what the layers give when `add` is added to the first's, at one token or all."""
    first, second = (model.module.get_submodule(name) for name in ("first", "second"))
    hidden = first.forward(x)
    if at is None:
        hidden = hidden + add
    else:
        hidden = hidden.clone()
        hidden[:, at] += add
    return [hidden, second.forward(torch.relu(hidden))]


def one_turn(model: HookedModel, number: int) -> bool:
    """Capture and edit, each in one of several ways, with numbers of one's own; say if right."""
    x = torch.full((1, 3, 2), float(number) / 100)
    add, way = float(number % 13 + 1), number % 4
    at = None
    with ExitStack() as scopes:
        if way == 0:
            scopes.enter_context(model.steer("first", lambda t: t + add))
        elif way == 1:
            scopes.enter_context(model.hooks(("first", _Adds(add)), ("second", _Sees())))
        elif way == 2:
            at = number % 3
            there = torch.zeros(3, 1)
            there[at] = add
            scopes.enter_context(model.steer("first", lambda t: t + there))
        else:
            first = model.module.get_submodule("first")
            scopes.enter_context(
                model.replace("first", lambda x: first.__class__.forward(first, x) + add)
            )
        captured = scopes.enter_context(model.capture("first", "second"))
        out = model(x)
    wanted = expected(model, x, add, at)
    return (
        [len(calls) for calls in captured.values()] == [1, 1]
        and torch.equal(captured.last("first"), wanted[0])
        and torch.equal(captured.last("second"), wanted[1])
        and torch.equal(out, wanted[1])
        and torch.equal(model(x), expected(model, x, 0.0)[1])
    )


def torch_hooks(model: HookedModel) -> list[int]:
    """Count the torch hooks of every kind on each module."""
    return [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in model.module.modules()
    ]


class TestSharing:
    """One model, 8 x 100 captures and edits, each with inputs of its own."""

    def test_threads(self, model: HookedModel) -> None:
        """8 threads, 800 turns: none wrong, no error."""
        wrong: list[Any] = []
        start = threading.Barrier(THREADS)

        def work(thread: int) -> None:
            start.wait(30)
            for turn in range(EACH):
                number = thread * EACH + turn
                try:
                    wrong.extend([] if one_turn(model, number) else [number])
                except BaseException as error:  # noqa: BLE001 - counted
                    wrong.append(error)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert sum(torch_hooks(model)) == 0
        tenterhook.assert_clean(model)

    def test_threads_of_one_registered_hook(self, model: HookedModel) -> None:
        """Registered hooks run for all threads beside each thread's scopes."""
        sees = _Sees()
        model.layers.register_hook("second", sees)
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            assert all(pool.map(lambda n: one_turn(model, n), range(200)))
        assert len(sees.calls) == 400

    def test_hooks_come_and_go_meanwhile(self, model: HookedModel) -> None:
        """Registering, switching and removing in one thread disturbs nobody's scope."""
        stop = threading.Event()

        def churn() -> int:
            turns = 0
            while not stop.is_set():
                hook = _Sees()
                model.layers.register_hook(["first", "second"][turns % 2], hook)
                hook.disable()
                hook.enable()
                model.layers.unregister_hook(hook)
                turns += 1
            return turns

        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            churning = pool.submit(churn)
            right = list(pool.map(lambda n: one_turn(model, n), range(200)))
            stop.set()
            assert churning.result() > 0
        assert all(right)
        tenterhook.assert_clean(model)

    def test_tasks(self, model: HookedModel) -> None:
        """800 tasks that take turns in the middle of their scopes: none wrong, no error."""

        async def work(number: int) -> bool:
            x = torch.full((1, 3, 2), float(number) / 100)
            add = float(number % 13 + 1)
            with model.capture("second") as captured:
                await asyncio.sleep(0)
                with model.steer("first", lambda t: t + add):
                    await asyncio.sleep(0)
                    out = model(x)
                    await asyncio.sleep(0)
                plain = model(x)
            wanted = [expected(model, x, add)[1], expected(model, x, 0.0)[1]]
            right = zip(captured["second"], wanted, strict=True)
            return (
                all(torch.equal(*pair) for pair in right)
                and torch.equal(out, wanted[0])
                and torch.equal(plain, wanted[1])
            )

        async def main() -> list[Any]:
            numbers = range(THREADS * EACH)
            return await asyncio.gather(*map(work, numbers), return_exceptions=True)

        assert [right for right in asyncio.run(main()) if right is not True] == []
        tenterhook.assert_clean(model)

    def test_loops_in_threads(self, model: HookedModel) -> None:
        """Tasks of several loops, each loop in a thread of its own."""

        async def work(number: int) -> bool:
            await asyncio.sleep(0)
            return one_turn(model, number)

        async def main(thread: int) -> list[bool]:
            return await asyncio.gather(*(work(thread * 25 + n) for n in range(25)))

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            assert all(all(right) for right in pool.map(lambda n: asyncio.run(main(n)), range(4)))
        tenterhook.assert_clean(model)


class TestCarry:
    def test_into_a_pool(self, model: HookedModel) -> None:
        """Threads of a pool see the scopes that were open where `carry` was called."""
        xs = [torch.full((1, 2), float(n)) for n in range(20)]
        with (
            concurrent.futures.ThreadPoolExecutor(4) as pool,
            model.capture("second") as captured,
            model.steer("second", lambda t: t + 1),
        ):
            outs = list(pool.map(carry(model), xs))
            again = pool.submit(model, ONE).result()  # the thread itself has no scope after
        plain = [model(x) for x in xs]
        assert all(torch.equal(out, before + 1) for out, before in zip(outs, plain, strict=True))
        assert torch.equal(again, model(ONE))
        seen = {tuple(t.flatten().tolist()) for t in captured["second"]}
        assert seen == {tuple(t.flatten().tolist()) for t in plain}
        tenterhook.assert_clean(model)

    def test_into_to_thread(self, model: HookedModel) -> None:
        """A thread of a task sees the task's scopes."""

        async def main() -> list[Tensor]:
            with model.steer("second", lambda t: t + 1):
                return [
                    await asyncio.to_thread(carry(model), ONE),
                    await asyncio.to_thread(model, ONE),
                ]

        carried, not_carried = asyncio.run(main())
        assert torch.equal(carried, model(ONE) + 1)
        assert torch.equal(not_carried, model(ONE))

    def test_into_a_task(self, model: HookedModel) -> None:
        """A coroutine function that is carried sees them in a task of its own."""

        async def child() -> Tensor:
            await asyncio.sleep(0)
            out: Tensor = model(ONE)
            return out

        async def main() -> list[Tensor]:
            with model.steer("second", lambda t: t + 1):
                return list(await asyncio.gather(carry(child)(), child()))

        carried, not_carried = asyncio.run(main())
        assert torch.equal(carried, model(ONE) + 1)
        assert torch.equal(not_carried, model(ONE))

    def test_from_outside_into_a_loop(self, model: HookedModel) -> None:
        """A scope around `asyncio.run` is carried into what runs there."""

        async def child() -> Tensor:
            out: Tensor = model(ONE)
            return out

        with model.steer("second", lambda t: t + 1):
            out = asyncio.run(carry(child)())
        assert torch.equal(out, model(ONE) + 1)

    def test_after_the_scope(self, model: HookedModel) -> None:
        """A scope that has been closed is not seen by what carries it."""
        with model.capture("second") as captured, model.steer("second", lambda t: t + 1):
            run = carry(model)
            model(ONE)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            assert torch.equal(pool.submit(run, ONE).result(), model(ONE))
        assert len(captured["second"]) == 1
        tenterhook.assert_clean(model)

    def test_closed_while_it_runs(self, model: HookedModel) -> None:
        """A scope that closes while the other thread runs is over there too."""
        inside, closed = threading.Event(), threading.Event()

        def run() -> list[Tensor]:
            first = model(ONE)
            inside.set()
            closed.wait(10)
            return [first, model(ONE)]

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            with model.steer("second", lambda t: t + 1):
                running = pool.submit(carry(run))
                assert inside.wait(10)
            closed.set()
            before, after = running.result()
        assert torch.equal(before, model(ONE) + 1)
        assert torch.equal(after, model(ONE))
        tenterhook.assert_clean(model)

    def test_scope_inside(self, model: HookedModel) -> None:
        """A scope that the carried function opens adds to what was carried, for it alone."""

        def run() -> Tensor:
            with model.steer("second", lambda t: t * 10):
                out: Tensor = model(ONE)
            return out

        with (
            concurrent.futures.ThreadPoolExecutor(1) as pool,
            model.steer("second", lambda t: t + 1),
        ):
            out = pool.submit(carry(run)).result()
            mine = model(ONE)
        assert torch.equal(out, (model(ONE) + 1) * 10)
        assert torch.equal(mine, model(ONE) + 1)

    def test_outer_scope_closed_meanwhile(self, model: HookedModel) -> None:
        """Of what is carried, only scopes that are still open apply."""
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            outer = model.steer("second", lambda t: t + 1, missing="ignore")
            outer.__enter__()
            muted = model.without_controllers()
            muted.__enter__()
            with model.steer("second", lambda t: t * 10) as _, model.capture("second"):
                inside, closed = threading.Event(), threading.Event()

                def run() -> list[Tensor]:
                    with model.steer("second", lambda t: t - 3):
                        first = model(ONE)
                        inside.set()
                        closed.wait(10)
                        return [first, model(ONE)]

                running = pool.submit(carry(run))
                assert inside.wait(10)
                outer.close()
                muted.close()
                closed.set()
                before, after = running.result()
        assert torch.equal(before, model(ONE))
        assert torch.equal(after, model(ONE) * 10 - 3)
        tenterhook.assert_clean(model)

    def test_capture_closed_meanwhile(self, model: HookedModel) -> None:
        """What runs in a carried scope never ends up in a later capture of the same layers."""
        inside, closed = threading.Event(), threading.Event()

        def run() -> None:
            inside.set()
            closed.wait(10)
            model(ONE)

        outer = model.capture("second", missing="ignore")
        first = outer.__enter__()
        with concurrent.futures.ThreadPoolExecutor(1) as pool, model.capture("first"):
            running = pool.submit(carry(run))
            assert inside.wait(10)
            outer.__exit__(None, None, None)
            with model.capture("second", missing="ignore") as second:
                closed.set()
                running.result()
        assert (first["second"], second["second"]) == ([], [])

    def test_carried_often(self, model: HookedModel) -> None:
        """A scope that is carried into many calls holds none of them when they have ended."""
        scope = model.capture("second", missing="ignore")
        with scope:
            run = carry(model)
            for _ in range(20):
                run(ONE)
            assert scope._now is not None
            assert scope._now.frame.carried == set()

    def test_without_a_scope(self, model: HookedModel) -> None:
        """Where no scope is open the function runs as it is, and keeps its name."""

        def run(x: Tensor) -> Any:
            """Run."""
            return model(x)

        with model.steer("second", lambda t: t + 1) as _:
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                wrapped = pool.submit(carry, run).result()
                inner = pool.submit(wrapped, ONE).result()
            model(ONE)
        assert (wrapped.__name__, wrapped.__doc__) == ("run", "Run.")
        assert torch.equal(inner, model(ONE))

    def test_mute_is_carried(self, model: HookedModel) -> None:
        """Controllers that are off are off there too."""
        plain = model(ONE)
        model.layers.register_hook("second", _Adds(1.0))
        with concurrent.futures.ThreadPoolExecutor(1) as pool, model.without_controllers():
            assert torch.equal(pool.submit(carry(model), ONE).result(), plain)
            assert torch.equal(pool.submit(model, ONE).result(), plain + 1)

    def test_error_in_the_thread(self, model: HookedModel) -> None:
        """An error in what was carried is the caller's to see, and leaves nothing in the thread."""

        def run() -> None:
            raise KeyError("mine")

        plain = model(ONE)
        with (
            concurrent.futures.ThreadPoolExecutor(1) as pool,
            model.steer("second", lambda t: t + 1, missing="ignore"),
        ):
            with pytest.raises(KeyError, match="mine"):
                pool.submit(carry(run)).result()
            assert torch.equal(pool.submit(model, ONE).result(), plain)
        tenterhook.assert_clean(model)


class TestNotCarried:
    def test_child_thread(self, model: HookedModel) -> None:
        """A thread that is started in a scope does not see it, whatever context it copies."""
        outs: list[Tensor] = []
        with model.steer("second", lambda t: t + 1):
            mine = model(ONE)
            context = contextvars.copy_context()
            for target in (
                lambda: outs.append(model(ONE)),
                lambda: context.run(lambda: outs.append(model(ONE))),
            ):
                thread = threading.Thread(target=target)
                thread.start()
                thread.join()
        assert torch.equal(mine, model(ONE) + 1)
        assert all(torch.equal(out, model(ONE)) for out in outs)
        assert len(outs) == 2

    def test_child_tasks(self, model: HookedModel) -> None:
        """Tasks of a task, in a task group too, see scopes of their own alone."""

        async def child(add: float) -> Tensor:
            await asyncio.sleep(0)
            before = model(ONE)
            with model.steer("second", lambda t: t + add):
                await asyncio.sleep(0)
                return model(ONE) - before  # type: ignore[no-any-return]

        async def main() -> list[Tensor]:
            with model.steer("second", lambda t: t + 100):
                mine = model(ONE)
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(child(float(n))) for n in (1, 2)]
                assert torch.equal(model(ONE), mine)
                return [mine, *(task.result() for task in tasks)]

        mine, one, two = asyncio.run(main())
        assert torch.equal(mine, model(ONE) + 100)
        assert torch.allclose(one, torch.ones(1, 2))
        assert torch.allclose(two, torch.ones(1, 2) * 2)

    def test_callbacks_of_the_loop(self, model: HookedModel) -> None:
        """A callback that a task leaves with the loop is nobody's scope's."""

        async def main() -> list[Tensor]:
            outs: list[Tensor] = []
            with model.steer("second", lambda t: t + 1):
                asyncio.get_running_loop().call_soon(lambda: outs.append(model(ONE)))
                await asyncio.sleep(0)
                outs.append(model(ONE))
            return outs

        callback, mine = asyncio.run(main())
        assert torch.equal(callback, model(ONE))
        assert torch.equal(mine, model(ONE) + 1)


class TestClosing:
    @pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1)])
    def test_out_of_order(self, model: HookedModel, order: tuple[int, ...]) -> None:
        """In whatever order scopes close, what is open applies, in the order of opening."""
        plain = model(ONE)
        changes = [lambda t: t + 1, lambda t: t * 10, lambda t: t - 3]
        scopes = [model.steer("second", change) for change in changes]
        for scope in scopes:
            scope.__enter__()
        still = [0, 1, 2]
        for closing in order:
            wanted = plain
            for number in still:
                wanted = changes[number](wanted)
            assert torch.equal(model(ONE), wanted)
            scopes[closing].__exit__(None, None, None)
            still.remove(closing)
        assert torch.equal(model(ONE), plain)
        tenterhook.assert_clean(model)

    def test_opened_after_one_closed_below(self, model: HookedModel) -> None:
        """A scope that opens on top of a stack with a gap has what is open below it."""
        plain = model(ONE)
        one = model.steer("second", lambda t: t + 1)
        two = model.steer("second", lambda t: t * 10)
        three = model.steer("second", lambda t: t - 3)
        one.__enter__()
        two.__enter__()
        one.close()
        three.__enter__()
        assert torch.equal(model(ONE), plain * 10 - 3)
        two.close()
        assert torch.equal(model(ONE), plain - 3)
        three.close()
        tenterhook.assert_clean(model)

    def test_capture_under_one_that_stays(self, model: HookedModel) -> None:
        """A capture that closes before the one inside it leaves the layer to that one."""
        outer, inner = model.capture("second", missing="ignore"), model.capture("second")
        outer.__enter__()
        captured = inner.__enter__()
        outer.__exit__(None, None, None)
        with model.capture("second") as later:
            model(ONE)
        inner.__exit__(None, None, None)
        assert [len(c["second"]) for c in (captured, later)] == [1, 1]
        tenterhook.assert_clean(model)

    def test_capture_of_another_thread_first(self, model: HookedModel) -> None:
        """A capture sees the changes around it, whoever captured the same layer before."""
        opened, close = threading.Event(), threading.Event()

        def other() -> None:
            with model.capture("second", missing="ignore"):
                opened.set()
                close.wait(10)

        thread = threading.Thread(target=other)
        thread.start()
        assert opened.wait(10)
        with model.steer("second", lambda t: t + 1):
            close.set()
            thread.join()
            with model.capture("second") as captured:
                out = model(ONE)
        assert torch.equal(out, model(ONE) + 1)
        assert torch.equal(captured.last("second"), out)

    def test_mute_below(self, model: HookedModel) -> None:
        """Controllers of a scope go on when the mute around it has closed."""
        mute = model.without_controllers()
        mute.__enter__()
        with model.steer("second", lambda t: t + 1):
            muted = model(ONE)
            mute.close()
            out = model(ONE)
        assert torch.equal(muted, model(ONE))
        assert torch.equal(out, model(ONE) + 1)

    def test_all_from_another_thread(self, model: HookedModel) -> None:
        """Scopes that another thread closed are over, though others hold their layers."""
        outer = model.steer("second", lambda t: t + 1, missing="ignore")
        inner = model.capture("second", missing="ignore")
        opened, closed = threading.Event(), threading.Event()
        outs: list[Tensor] = []

        def owner() -> None:
            outer.__enter__()
            inner.__enter__()
            opened.set()
            closed.wait(10)
            outs.append(model(ONE))

        thread = threading.Thread(target=owner)
        thread.start()
        assert opened.wait(10)
        with model.capture("second", missing="ignore"):
            inner.close()
            outer.close()
            closed.set()
            thread.join()
        assert torch.equal(outs[0], model(ONE))
        tenterhook.assert_clean(model)

    def test_from_another_thread(self, model: HookedModel) -> None:
        """Another thread may close any of the open scopes; the rest go on where they opened."""
        plain = model(ONE)
        outer = model.steer("second", lambda t: t + 1)
        inner = model.steer("second", lambda t: t * 10)
        outer.__enter__()
        inner.__enter__()
        thread = threading.Thread(target=outer.close)
        thread.start()
        thread.join()
        assert torch.equal(model(ONE), plain * 10)
        thread = threading.Thread(target=inner.close)
        thread.start()
        thread.join()
        assert torch.equal(model(ONE), plain)
        with model.capture("second") as captured:
            model(ONE)
        assert len(captured["second"]) == 1
        tenterhook.assert_clean(model)

    def test_from_two_threads_at_once(self, model: HookedModel) -> None:
        """It is closed once, and both go on only when it has ended."""

        class Slow(_Sees):
            ended = 0

            def set_context(self, context: Any) -> None:
                super().set_context(context)
                if context is None:
                    time.sleep(0.02)
                    self.ended += 1

        hook, counts = Slow(), list[tuple[int, int]]()
        scope = model.hooks(("first", hook), ("second", hook), missing="ignore")
        scope.__enter__()

        def close() -> None:
            scope.close()
            counts.append((hook.ended, hook._scopes))

        threads = [threading.Thread(target=close) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tenterhook.assert_clean(model)
        assert len(set(counts)) == 1
        assert counts[0][1] == 0

    def test_closed_in_the_middle_of_a_forward(self, model: HookedModel) -> None:
        """A scope that a hook closes while the model runs applies to what came before alone."""
        plain_first = model.module.get_submodule("first").forward(ONE)
        scope = model.steer("second", lambda t: t * 0, missing="ignore")
        scope.__enter__()

        def close(t: Tensor) -> None:
            scope.close()

        with model.steer("first", close), model.capture("first") as captured:
            out = model(ONE)
        assert torch.equal(out, model(ONE))
        assert torch.equal(captured.last("first"), plain_first)
        tenterhook.assert_clean(model)

    def test_exit_stack(self, model: HookedModel) -> None:
        """An `ExitStack` holds any number, closes them all, also after an error."""
        plain = model(ONE)
        with pytest.raises(KeyError), ExitStack() as stack:  # noqa: PT012 - what fails is the last
            for _ in range(20):
                stack.enter_context(model.steer("second", lambda t: t + 1))
            captured = stack.enter_context(model.capture("second"))
            assert torch.allclose(model(ONE), plain + 20)
            raise KeyError
        assert len(captured["second"]) == 1
        assert torch.equal(model(ONE), plain)
        tenterhook.assert_clean(model)

    def test_moved_to_another_stack(self, model: HookedModel) -> None:
        """Scopes outlive the `with` that opened them where a stack is handed on."""
        plain = model(ONE)
        with ExitStack() as stack:
            stack.enter_context(model.steer("second", lambda t: t + 1))
            kept = stack.pop_all()
        assert torch.equal(model(ONE), plain + 1)
        kept.close()
        assert torch.equal(model(ONE), plain)

    def test_thread_that_ends_without_closing(self, model: HookedModel) -> None:
        """A scope whose thread has ended applies to nobody, and is closed from elsewhere."""
        scope = model.steer("second", torch.neg, missing="ignore")
        thread = threading.Thread(target=scope.__enter__)
        thread.start()
        thread.join()
        with pytest.raises(tenterhook.NotClean, match=r"left by threads .* at 'second'"):
            tenterhook.assert_clean(model)
        other = threading.Thread(target=lambda: outs.append(model(ONE)))
        outs: list[Tensor] = []
        other.start()  # it may have the number of the thread that ended
        other.join()
        scope.close()
        assert torch.equal(outs[0], model(ONE))
        tenterhook.assert_clean(model)


def test_ten_thousand_scopes(model: HookedModel) -> None:
    """Opened and closed 10,000 times, of every kind: hooks and memory are where they began."""
    model.module.register_forward_hook(lambda *_: None)
    scopes = [
        lambda: model.capture("first", "second", missing="ignore"),
        lambda: model.capture("*", inputs=True, missing="ignore"),
        lambda: model.steer("first", torch.neg, missing="ignore"),
        lambda: model.steer("first", torch.neg, hook_type="pre_forward", missing="ignore"),
        lambda: model.hooks(("second", _Sees()), missing="ignore"),
        lambda: model.replace("first", lambda x: x, missing="ignore"),
        model.without_controllers,
    ]

    def turn(times: int) -> None:
        for number in range(times):
            with scopes[number % len(scopes)](), scopes[number * 3 % len(scopes)]():
                if number % 50 == 0:
                    model(torch.ones(1, 3, 2))

    turn(140)
    gc.collect()
    before = torch_hooks(model)
    tracemalloc.start()
    try:
        turn(70)
        gc.collect()
        began, _ = tracemalloc.get_traced_memory()
        turn(5000)
        gc.collect()
        ended, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Less than the smallest object for each scope; what else lives in the process may take some.
    assert ended - began < 5000 * 16
    assert torch_hooks(model) == before
    tenterhook.assert_clean(model)

"""What the processes of these tests do with their device: importable by spawned processes. Each asserts what it
computes, on the host, from the same memory."""

from __future__ import annotations

import ctypes
import gc
import random
import threading
from functools import wraps
from typing import TYPE_CHECKING, Any

import stead
from integration.opencl.kernels import devices, kernel, new_queue, program, run, sharing
from stead.devices import opencl
from stead.devices.constraints import DeviceConstraints

if TYPE_CHECKING:
    from collections.abc import Callable


def in_arena(body: Callable[..., Any]) -> Callable[..., Any]:
    """Gives ``body`` an arena, in which nothing may be left at its end."""

    @wraps(body)
    def call(*arguments: Any) -> Any:
        with stead.Arena("64 MiB") as memory:
            answer = body(memory, *arguments)
            gc.collect()
            memory.check()
            return answer

    return call


# ---- memory ---------------------------------------------------------------------------------------


@in_arena
def reads_and_writes(memory: stead.Arena) -> None:
    import numpy

    array = memory.array(10_000, "int64")
    run("fill", len(array), array, numpy.int64(7))
    assert (array == numpy.arange(7, 10_007)).all()
    # A part of it, and a block, and what has only an address.
    run("fill", 5, array[100:], numpy.int64(-5))
    assert array[99:106].tolist() == [106, -5, -4, -3, -2, -1, 112]
    with memory.block(64) as block:
        run("fill", 8, block, numpy.int64(1))
        assert memoryview(block).cast("q").tolist() == list(range(1, 9))
    address = memory.allocate(64)
    run("fill", 8, address, numpy.int64(2))
    run("fill", 1, numpy.uint64(address + 8), numpy.int64(-1))
    assert list((ctypes.c_int64 * 8).from_address(address)) == [2, -1, *range(4, 10)]
    memory.free(address)


@in_arena
def sees_the_hosts_addresses(memory: stead.Arena) -> None:
    """An array of an arena, a part of it, a block of a heap, a view of a reservation, memory of NumPy's own."""
    import numpy

    with stead.SharedHeap("64 MiB") as heap, stead.reserve("2 MiB") as held:
        array, said = memory.array(1000, "uint8"), memory.array(1, "uint64")
        block, view, own = heap.block(64), held.commit(backing="shared"), numpy.zeros(10)
        for given, address in (
            (array, array.ctypes.data), (array[64:], array.ctypes.data + 64), (block, block.address),
            (view, held.address), (own, own.ctypes.data),
        ):  # fmt: skip
            run("where", 1, given, said)
            assert said[0] == address
        view.release()
        block.free()


@in_arena
def argument_holds_its_memory(memory: stead.Arena) -> None:
    block = memory.block(64)
    argument = sharing().argument(block)
    assert argument.svm_ptr == block.address
    try:
        block.free()
    except BufferError:
        pass
    else:
        raise AssertionError
    del argument
    block.free()


# ---- pointers -------------------------------------------------------------------------------------


class Node(ctypes.Structure):
    _fields_ = (("next", ctypes.c_uint64), ("value", ctypes.c_int64))


class Tree(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("left", "right")) + tuple(
        (name, ctypes.c_int64) for name in ("key", "found")
    )


class Short(ctypes.Structure):
    _fields_ = (("next", ctypes.c_uint32), ("value", ctypes.c_int32))


def linked(memory: Any, values: list[int], kind: Any = Node) -> list[int]:
    """A list in blocks that do not lie in its order: their addresses in its order."""
    places = [memory.allocate(ctypes.sizeof(kind)) for _ in values]
    random.Random(0).shuffle(places)
    for at, following, value in zip(places, [*places[1:], 0], values, strict=True):
        kind.from_address(at).next, kind.from_address(at).value = following, value
    return places


def values_from(address: int) -> list[int]:
    found = []
    while address:
        node = Node.from_address(address)
        found.append(node.value)
        address = node.next
    return found


@in_arena
def walks_and_changes_a_list(memory: stead.Arena) -> None:
    places = linked(memory, list(range(1000)))
    total = memory.array(1, "int64")
    run("walk", 1, places[0], total)
    assert total[0] == sum(range(1000))
    assert values_from(places[0]) == [2 * each for each in range(1000)]
    for each in places:
        memory.free(each)


@in_arena
def walks_and_changes_a_tree(memory: stead.Arena) -> None:
    root, places = 0, []
    keys = list(range(500))
    random.Random(1).shuffle(keys)
    for key in keys:
        at = memory.allocate(ctypes.sizeof(Tree))
        places.append(at)
        made = Tree.from_address(at)
        made.left = made.right = made.found = 0
        made.key = key
        here = root
        while here:
            node = Tree.from_address(here)
            side = "left" if key < node.key else "right"
            here = getattr(node, side)
            if not here:
                setattr(node, side, at)
        root = root or at
    run("look_up", 1000, root)  # half of these are not in it
    assert all(Tree.from_address(at).found == at for at in places)
    nodes = memory.array(len(places), "uint64")
    nodes[:] = places
    run("mirror", len(places), nodes)

    def in_order(at: int) -> list[int]:
        if not at:
            return []
        node = Tree.from_address(at)
        return [*in_order(node.left), node.key, *in_order(node.right)]

    assert in_order(root) == list(reversed(range(500)))
    for at in places:
        memory.free(at)


@in_arena
def builds_a_list(memory: stead.Arena) -> None:
    import numpy

    with memory.block(2 * 300 * ctypes.sizeof(Node)) as pool:
        head = memory.array(1, "uint64")
        run("build", 1, pool, numpy.int32(300), head)
        assert pool.address <= head[0] < pool.address + pool.size
        assert values_from(int(head[0])) == list(reversed(range(300)))


def stays_in_reach_of(others: tuple[DeviceConstraints, ...]) -> tuple[int, int]:
    """An arena for this device and others: pointers of 32 bits in it, followed by a kernel. Where it is."""
    held = stead.reserve("1 MiB", devices=[*others, sharing().constraints])
    with held, stead.Arena(held) as memory:
        places = linked(memory, list(range(100)), Short)
        total = memory.array(1, "int64")
        run("walk_short", 1, places[0], total)
        assert total[0] == sum(range(100))
        del total
        for each in places:
            memory.free(each)
        return held.range


# ---- at once --------------------------------------------------------------------------------------


@in_arena
def answers_while_it_runs(memory: stead.Arena) -> None:
    """The host and a running kernel speak to each other."""
    with memory.block(64) as block:
        word = ctypes.c_int32.from_address(block.address)
        word.value = 0
        queue = new_queue()
        kernel("answer")(queue, (1,), None, sharing().argument(block))
        queue.flush()
        while word.value != 1:
            pass
        word.value = 2
        queue.finish()
        assert word.value == 3


@in_arena
def adds_in_threads(memory: stead.Arena) -> None:
    """Four threads, each with a queue of its own, all on one counter; and each on memory of its own."""
    import numpy

    program()  # built by one thread
    counter = memory.array(1, "int32")
    counter[0] = 0
    mine = [memory.array(1000, "int64") for _ in range(4)]
    failed = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                run("add", 2000, counter)
                run("fill", 1000, mine[number], numpy.int64(number))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    if failed:
        raise failed[0]
    assert counter[0] == 4 * 5 * 2000
    assert all((array == numpy.arange(n, n + 1000)).all() for n, array in enumerate(mine))


def capabilities() -> frozenset[str]:
    return opencl.capabilities(devices()[0])


# ---- in two processes -----------------------------------------------------------------------------


def build_in(block: stead.SharedBlock, n: int) -> int:
    """By a kernel, a list in a block of a heap: its head."""
    import numpy

    head = block.heap.array(1, "uint64")
    run("build", 1, block, numpy.int32(n), head)
    return int(head[0])


def walk_in(block: stead.SharedBlock, head: int) -> tuple[int, list[int]]:
    """By a kernel, what another one has built: its sum, and what the list is then."""
    total = block.heap.array(1, "int64")
    run("walk", 1, head, total)
    return int(total[0]), values_from(head)


def add_often(counter: Any, times: int) -> None:
    for _ in range(times):
        run("add", 1000, counter)


# ---- refusals -------------------------------------------------------------------------------------


def refusals() -> list[tuple[str, str]]:
    """What is not taken for an argument."""
    import numpy

    given: list[Any] = [5, -1, "here", 1.5, None, True, b"fixed", numpy.zeros((4, 4))[:, 1], object]
    with stead.reserve("1 MiB") as held:
        held.commit(0, 4096).release()
        sharing().argument(held.address + 4095)
        given += [held.address - 1, held.address + 4096, held]
    said = []
    for each in [*given, held.address]:
        try:
            sharing().argument(each)
        except Exception as error:
            said.append((type(error).__name__, str(error)))
    return said


def evidence() -> str:
    return sharing().evidence


def constraints() -> DeviceConstraints:
    return sharing().constraints


def insists_on_what_is_said() -> str:
    """With nothing tried: the refusal, or that there is none."""
    try:
        return opencl.Sharing(devices()[0], declared=True).evidence
    except stead.Unsupported as error:
        return str(error)


def refuses_what_is_out_of_reach() -> str:
    limited = opencl.Sharing(devices()[0])
    limited.constraints &= DeviceConstraints("fpga0", "file", stead.Range(0, 1 << 32))
    with stead.Arena("1 MiB") as memory, memory.block(64) as block:
        try:
            limited.argument(block)
        except stead.Unsupported as error:
            return str(error)
    return ""


def without_a_target() -> tuple[str, bool]:
    """The first device that shares: here the only one."""
    found = opencl.Sharing()
    return found.evidence, found.devices == sharing().devices


def tries_in_vain() -> str:
    """A device that does not say that it shares, where the environment keeps a trial from its end."""
    try:
        return opencl.Sharing(devices()[0]).evidence
    except stead.Unsupported as error:
        return str(error)


def by_number(number: int) -> Any:
    from stead.devices.named import named

    return named(f"opencl:{number}")

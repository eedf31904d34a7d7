"""Which models there are, where their replicas listen, and connections to them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from time import monotonic
from typing import Final, NamedTuple

from rayserve_app.gateway.connection import Connection, ReplicaLost

CONNECT_TIMEOUT_S: Final = 2.0

MAX_IDLE: Final = 128
"""Connections to one replica that are kept while nobody uses them."""

MAX_IDLE_S: Final = 4.0
"""How long they are. A server that closes them sooner may do so while a request is on its way;
uvicorn's own limit is 5 s, Serve's 90 s."""


class Address(NamedTuple):
    """Where one replica listens."""

    host: str
    port: int


class ServedModel(NamedTuple):
    """One model as Serve runs it."""

    name: str
    prefix: str
    """Its application's route prefix, without a final slash."""
    replicas: tuple[Address, ...]
    """Where it can be reached: its replicas, or what waits for one where the model has none."""
    is_ready: bool = True
    """Whether a replica runs."""
    targets: frozenset[str] = frozenset()
    """What the client of a multi-model endpoint may call it."""
    deadline_s: float = 30.0
    """How long its callers wait."""
    patience_s: float = 0.0
    """How long they wait for a replica; nothing where none is to come."""
    protocols: tuple[str, ...] = ()
    """Those that it speaks, in its order; all if empty."""


class Directory:
    """The models by name, as Serve last told."""

    def __init__(self) -> None:
        self._models: dict[str, ServedModel] = {}
        self._updated = asyncio.Event()

    def update(self, models: Iterable[ServedModel]) -> None:
        """Forget what was known before."""
        self._models = {model.name: model for model in models}
        self._updated.set()
        self._updated = asyncio.Event()

    async def news(self, timeout_s: float) -> None:
        """Return at the next update, or after this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._updated.wait()

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(sorted(self._models.values(), key=lambda model: model.name))

    def find(self, name: str) -> ServedModel | None:
        """Return a model by its name, None if there is none."""
        return self._models.get(name)

    def find_target(self, target: str) -> ServedModel | None:
        """Return the model that the client of a multi-model endpoint calls so; None if there is
        none, or no single one."""
        found = [model for model in self._models.values() if target in model.targets]
        return self.find(target) or (found[0] if len(found) == 1 else None)

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return sorted(self._models)


class Lease(NamedTuple):
    """A connection to a replica while one exchange has it."""

    address: Address
    connection: Connection


class IdleConnection(NamedTuple):
    """A connection that nobody uses, and since when."""

    since: float
    connection: Connection


class Connections:
    """Connections to replicas, kept between exchanges; the next request goes to the replica with
    the fewest under way."""

    def __init__(self) -> None:
        self._idle: defaultdict[Address, list[IdleConnection]] = defaultdict(list)
        self._busy: Counter[Address] = Counter()
        self._turns: dict[Address, int] = {}
        self._turn = count()

    def choose(self, replicas: Sequence[Address], *, without: Collection[Address] = ()) -> Address:
        """Return the replica for the next request.

        Args:
            replicas: at least one.
            without: replicas to be left out, unless there are no others.
        """
        if len(replicas) == 1:
            return replicas[0]
        others = [each for each in replicas if each not in without]
        return min(others or replicas, key=self._load)

    async def take(self, address: Address, until: float = inf) -> Lease:
        """Return a connection for one exchange.

        Args:
            until: by the loop's clock, how long to wait for it, beside CONNECT_TIMEOUT_S.
        Raises:
            ReplicaLost: the replica cannot be reached.
        """
        self._busy[address] += 1
        self._turns[address] = next(self._turn)
        try:
            return Lease(address, await self._connect(address, until))
        except BaseException:
            self._end(address)
            raise

    def give_back(self, lease: Lease) -> None:
        """End an exchange; the connection is kept if it can carry another one."""
        self._end(lease.address)
        idle = self._idle[lease.address]
        if lease.connection.is_reusable and len(idle) < MAX_IDLE:
            idle.append(IdleConnection(monotonic(), lease.connection))
        else:
            lease.connection.close()

    def keep_only(self, addresses: Collection[Address]) -> None:
        """Close the idle connections to all replicas but these."""
        for address in self._idle.keys() - set(addresses):
            self.drop_idle(address)
            self._turns.pop(address, None)

    def drop_idle(self, address: Address) -> None:
        """Close the idle connections to a replica."""
        for _, connection in self._idle.pop(address, ()):
            connection.close()

    def close(self) -> None:
        self.keep_only(())

    def _end(self, address: Address) -> None:
        """Count one request less; what is under way is counted even where the replica has gone,
        for its address may return."""
        self._busy[address] -= 1
        if not self._busy[address]:
            del self._busy[address]

    def _load(self, address: Address) -> tuple[int, int]:
        """Requests under way, and of equals who has waited longest for one."""
        return self._busy[address], self._turns.get(address, -1)

    async def _connect(self, address: Address, until: float) -> Connection:
        idle = self._idle[address]
        while idle:
            since, connection = idle.pop()
            if connection.is_open and monotonic() - since < MAX_IDLE_S:
                return connection
            connection.close()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(min(loop.time() + CONNECT_TIMEOUT_S, until)):
                _, connection = await loop.create_connection(Connection, *address)
        except (OSError, TimeoutError) as exc:
            raise ReplicaLost(f"{address.host}:{address.port}: {exc}") from exc
        return connection

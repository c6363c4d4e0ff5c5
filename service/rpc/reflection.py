"""Server reflection over two pools: the typed API's messages and those of the Open Inference Protocol."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import grpc.aio
from google.protobuf import descriptor_pool
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection

from protos.inference.pool import POOL

T = TypeVar("T")


class Pools:
    """Finds descriptors wherever they are; has what reflection asks of a pool, with the KeyErrors that it expects.

    Args:
        pools: The one that has a name first wins: others may have put the protocol's names into the default pool.
    """

    def __init__(self, pools: Sequence[DescriptorPool]) -> None:
        self._pools = pools

    def FindFileByName(self, name: str) -> Any:
        """Find a file by its path."""
        return self._first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, symbol: str) -> Any:
        """Find the file of a service, a message or a method."""
        return self._first(lambda pool: pool.FindFileContainingSymbol(symbol))

    def FindMessageTypeByName(self, name: str) -> Any:
        """Find a message."""
        return self._first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:
        """Find an extension of a message."""
        return self._first(lambda pool: pool.FindExtensionByNumber(message, number))

    def FindAllExtensions(self, message: Any) -> list[Any]:
        """List the extensions of a message."""
        return list(message.file.pool.FindAllExtensions(message))

    def _first(self, find: Callable[[DescriptorPool], T]) -> T:
        for pool in self._pools:
            try:
                return find(pool)
            except KeyError:
                continue
        raise KeyError("no pool has it")


def add_reflection(services: Sequence[str], server: grpc.aio.Server) -> None:
    """Let callers ask a server what it offers."""
    names = (*services, reflection.SERVICE_NAME)
    pools = cast(DescriptorPool, Pools((POOL, descriptor_pool.Default())))
    reflection.enable_server_reflection(names, server, pools)

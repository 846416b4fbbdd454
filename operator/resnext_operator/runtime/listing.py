"""Lists the objects of a kind."""

from resnext_operator.runtime.cache import prune
from resnext_operator.runtime.cached_objects import CachedObject
from resnext_operator.runtime.client import KubeClient, path_of
from resnext_operator.runtime.guard import Guard
from resnext_operator.runtime.unstructured import namespace_and_name

_PAGE = 500


async def list_objects(
    client: KubeClient, kind: str, namespace: str | None, selector: str = "", guard: Guard | None = None
) -> tuple[list[CachedObject], int]:
    """All objects of a kind, pruned, and the resourceVersion of the list.

    guard: counts objects that cannot be parsed; they are omitted.
    """
    guard = guard or Guard()
    items: list[CachedObject] = []
    token = ""
    while True:
        parameters = {"limit": str(_PAGE), "labelSelector": selector, "continue": token}
        query = [(key, value) for key, value in parameters.items() if value]
        page = await client.request("GET", path_of(kind, namespace), query=query, seconds=60)
        for item in page["items"]:
            with guard.each("list", (kind, *namespace_and_name(item))):
                items.append(prune({**item, "kind": kind}))
        if not (token := page["metadata"].get("continue", "")):
            return items, int(page["metadata"]["resourceVersion"])

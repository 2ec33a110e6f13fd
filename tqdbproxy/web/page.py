"""A page: a resource that has nothing below it but what it was given.

The law of this module: what there is not is 404, in words that repeat nothing of what was asked.
"""

from __future__ import annotations

from typing import cast

from twisted.web import pages
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request

READING = (b"GET", b"HEAD")
METHOD_NOT_ALLOWED = 405


class Page(Resource):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def render(self, request: Request) -> bytes | int:
        """See `twisted.web.resource.IResource`."""
        if request.method in READING:
            return cast(bytes | int, super().render(request))  # type: ignore[no-untyped-call]
        request.setHeader(b"allow", b", ".join(READING))
        refusal = pages.errorPage(METHOD_NOT_ALLOWED, "Method Not Allowed", "These pages can only be read.")
        return cast(bytes | int, refusal.render(request))

    def getChild(self, path: bytes, request: Request) -> IResource:
        """See `twisted.web.resource.Resource`."""
        return pages.notFound()

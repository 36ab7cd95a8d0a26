"""Print what roc-validator finds amiss in a crate, as JSON: severity and message. Its Python runs this, without a network.

Arguments: the crate, and the place of a cache, in which the context of RO-Crate 1.1 is kept first.
"""

import io
import json
import sys
from pathlib import Path

from requests import Response
from requests.adapters import BaseAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from urllib3 import HTTPResponse

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


class Kept(BaseAdapter):
    """The answer of the address: the file beside this one."""

    def send(self, request, **settings):
        content = (Path(__file__).parent / "context.jsonld").read_bytes()
        response = Response()
        response.status_code, response.url, response.request = 200, request.url, request
        response.headers["Content-Type"] = "application/ld+json"
        response.raw = HTTPResponse(io.BytesIO(content), response.headers, 200, preload_content=False)
        return response

    def close(self):
        pass


crate, cache = sys.argv[1:]
with CachedSession(cache_name=cache, backend="sqlite", expire_after=-1) as session:
    session.mount("https://", Kept())
    session.get(CONTEXT, headers={"Accept": "application/ld+json"})
settings = {
    "profile_identifier": "workflow-run-crate",
    "requirement_severity": "RECOMMENDED",
    "offline": True,
    "cache_path": cache,
}
found = services.validate({"rocrate_uri": crate, **settings})
print(json.dumps([(issue.severity.name, issue.message) for issue in found.get_issues()]))

"""The endpoints of the hubs that pushing and pulling a data set uses, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

_SHA = "0" * 40


class HubServer:
    """Keeps the files of one data set; `private` is what its creator asked for, `keys` what callers showed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.keys: set[str] = set()
        self.app = FastAPI()
        api, files = f"/api/datasets/{name}", f"/datasets/{name}/resolve/{{revision}}/{{path:path}}"
        for path, endpoint, method in (
            ("/api/repos/create", self.create, "POST"),
            ("/api/validate-yaml", self.validate, "POST"),
            (f"{api}/preupload/main", self.preupload, "POST"),
            (f"{api}/commit/main", self.commit, "POST"),
            (f"{api}/revision/main", self.info, "GET"),
            (api, self.info, "GET"),
            (f"{api}/tree/{{revision}}", self.tree, "GET"),
            (files, self.file, "GET"),
            (files, self.file, "HEAD"),
        ):
            self.app.add_api_route(path, endpoint, methods=[method], response_model=None)

    async def create(self, request: Request) -> Response:
        asked = await request.json()
        assert asked["type"] == "dataset"
        self.keys.add(request.headers.get("authorization", ""))
        exists, self.private = self.private is not None, asked.get("visibility") == "private"
        return JSONResponse({"url": f"{request.base_url}datasets/{self.name}"}, 409 if exists else 200)

    async def validate(self) -> Any:
        return {"errors": [], "warnings": []}

    async def preupload(self, request: Request) -> Any:
        asked = (await request.json())["files"]
        return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in asked]}

    async def commit(self, request: Request) -> Any:
        for line in (await request.body()).splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                self.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
        address = f"{request.base_url}datasets/{self.name}/commit/{_SHA}"
        return {"success": True, "commitOid": _SHA, "commitUrl": address}

    async def info(self) -> Any:
        siblings = [{"rfilename": name} for name in self.files]
        return {"id": self.name, "sha": _SHA, "siblings": siblings, "private": self.private, "tags": []}

    async def tree(self) -> Any:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for name, content in self.files.items()
        ]

    async def file(self, path: str) -> Response:
        content = self.files[path]
        headers = {"etag": f'"{hashlib.sha1(content).hexdigest()}"', "x-repo-commit": _SHA}
        return Response(content, headers=headers, media_type="application/octet-stream")


class ModelScopeServer:
    """Keeps blobs and the paths they were committed as; `visibility` is what each creation asked for, 1 is private."""

    def __init__(self) -> None:
        self.visibility: list[str] = []
        self.blobs: list[bytes] = []
        self.committed: list[str] = []
        self.app = FastAPI()
        repo = "/api/v1/repos/datasets/{owner}/{name}"
        for path, endpoint, method in (
            ("/openapi/v1/datasets/{owner}/{name}", self.info, "GET"),
            ("/api/v1/datasets/{owner}/{name}", self.info, "GET"),
            ("/api/v1/datasets", self.create, "POST"),
            (f"{repo}/info/lfs/objects/batch", self.batch, "POST"),
            (f"{repo}/commit/master", self.commit, "POST"),
            ("/blob", self.blob, "PUT"),
            ("/api/v1/datasets/{owner}/{name}/repo/tree", self.tree, "GET"),
            ("/api/v1/datasets/{owner}/{name}/repo", self.file, "GET"),
        ):
            self.app.add_api_route(path, endpoint, methods=[method], response_model=None)

    async def info(self, owner: str, name: str) -> Response:
        found = bool(self.visibility)
        said = {
            "Code": 200,
            "Success": found,
            "Data": {"Owner": owner, "Name": name},
            "Message": "" if found else "none",
        }
        return JSONResponse(said, 200 if found else 404)

    async def create(self, request: Request) -> Response:
        asked = await request.form()
        if self.visibility:
            return JSONResponse({"Code": 409, "Success": False, "Message": "exists"}, 409)
        self.visibility.append(str(asked["Visibility"]))
        return JSONResponse({"Code": 200, "Success": True, "Data": {}})

    async def batch(self, request: Request) -> Any:
        asked = (await request.json())["objects"]
        upload = {"upload": {"href": f"{request.base_url}blob"}}
        return {"Code": 200, "Success": True, "Data": {"objects": [{**item, "actions": upload} for item in asked]}}

    async def blob(self, request: Request) -> Any:
        self.blobs.append(await request.body())
        return {"Code": 200, "Success": True, "Data": {}}

    async def tree(self) -> Any:
        files = [
            {"Path": path, "Type": "blob", "Size": len(blob), "Sha256": hashlib.sha256(blob).hexdigest()}
            for path, blob in zip(self.committed, self.blobs, strict=True)
        ]
        return {"Code": 200, "Success": True, "Data": {"Files": files}}

    async def file(self, request: Request) -> Response:
        at = self.committed.index(request.query_params["FilePath"])
        return Response(self.blobs[at], media_type="application/octet-stream")

    async def commit(self, request: Request) -> Any:
        self.committed += [action["path"] for action in (await request.json())["actions"]]
        return {"Code": 200, "Success": True, "Data": {"oid": _SHA}}

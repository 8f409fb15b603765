"""Web APIs as tools, from their OpenAPI 3 or Swagger 2 documents."""

from __future__ import annotations

from toolweave.tools.openapi.auth import Credential
from toolweave.tools.openapi.document import read_document
from toolweave.tools.openapi.importer import Imported, import_openapi, plugin_tools
from toolweave.tools.openapi.tool import OpenAPITool

__all__ = ["Credential", "Imported", "OpenAPITool", "import_openapi", "plugin_tools", "read_document"]

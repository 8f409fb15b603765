"""The weather, by AMap (https://lbs.amap.com/api/webservice/summary)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.http import Service
from toolweave.tools.registry import register_tool
from toolweave.types import Json


@register_tool("amap_weather")
class AmapWeather(BaseTool):
    """Current weather of a Chinese city or district.

    `cfg`: `token` (or environment AMAP_TOKEN), `base_url` (or AMAP_BASE_URL), `timeout` in seconds for each request.
    """

    name = "amap_weather"
    description = "获取对应城市的天气数据"
    parameters = (
        {
            "name": "location",
            "type": "string",
            "description": "城市/区具体名称，如`北京市海淀区`请描述为`海淀区`",
            "required": True,
        },
    )

    def __init__(self, cfg: Mapping[str, Any] | None = None) -> None:
        super().__init__(cfg)
        self._adcodes: dict[str, str] = {}

    def call(self, params: str, **kwargs: Any) -> str:
        """Return a sentence with weather and temperature. Raises ToolError when AMap cannot tell."""
        location = str(self._verify_args(params)["location"]).strip()
        if location not in self._adcodes:
            self._adcodes[location] = self._find_adcode(location)
        lives = self._get("/v3/weather/weatherInfo", {"city": self._adcodes[location]}).get("lives")
        if not lives:
            raise ToolError(f"AMap has no weather of {location}")
        return f"{location}的天气是{lives[0]['weather']}温度是{lives[0]['temperature']}度。"

    def _find_adcode(self, location: str) -> str:
        query = {"keywords": location, "subdistrict": "0", "extensions": "base"}
        districts = self._get("/v3/config/district", query).get("districts") or []
        if not districts:
            raise ToolError(f"AMap knows no city or district called {location!r}")
        # AMap also finds streets and places that only contain the name.
        district = next((district for district in districts if district["name"] == location), districts[0])
        return str(district["adcode"])

    def _get(self, path: str, query: Mapping[str, str]) -> Json:
        key = self.cfg.get("token") or os.environ.get("AMAP_TOKEN", "")
        if not key:
            raise ToolError("AMAP_TOKEN is not set: get a key of the web service at https://lbs.amap.com")
        base_url = self.cfg.get("base_url") or os.environ.get("AMAP_BASE_URL") or "https://restapi.amap.com"
        service = Service("AMap", base_url, key, float(self.cfg.get("timeout", 10)))
        answer = service.request("GET", path, params={**query, "key": key})
        if str(answer.get("status")) == "0":
            raise service.error(answer.get("info") or "status 0")
        return answer

"""The weather, by AMap (https://lbs.amap.com/api/webservice/summary)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from toolweave.errors import ToolError
from toolweave.tools.base import BaseTool
from toolweave.tools.http import Place
from toolweave.tools.registry import register_tool
from toolweave.types import Json

_AMAP = Place(
    "AMap",
    "https://restapi.amap.com",
    url_variable="AMAP_BASE_URL",
    key_variable="AMAP_TOKEN",
    key_names=("token", "amap_api_key"),
    key_hint="get a key of the web service at https://lbs.amap.com",
)
_SUFFIXES = ("市", "区", "县")
# 北京市海淀区 is 北京市, 海淀区; 沙市区 is one part, and so is 市中区, which many cities have.
_PART = re.compile(r"市中区|\w+?(?:自治区|自治州|地区|省|市|区|县|旗)(?!区|县)")


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
        for keywords in _spellings(location):
            query = {"keywords": keywords, "subdistrict": "0", "extensions": "base"}
            districts = self._get("/v3/config/district", query).get("districts") or []
            if districts:
                # AMap also finds streets and places that only contain the name.
                names = (location, keywords, *(keywords + suffix for suffix in _SUFFIXES))
                exact = (district for name in names for district in districts if district.get("name") == name)
                return str(next(exact, districts[0])["adcode"])
        raise ToolError(f"AMap knows no city or district called {location!r}")

    def _get(self, path: str, query: Mapping[str, str]) -> Json:
        service = _AMAP.service(self.cfg, float(self.cfg.get("timeout", 10)))
        answer = service.request("GET", path, params={**query, "key": service.key})
        if str(answer.get("status")) == "0":
            raise service.error(answer.get("info") or "status 0")
        return answer


def _spellings(location: str) -> list[str]:
    """Return what to ask for, in turn: the name itself, its last part (`北京市海淀区`), and that without suffix."""
    last = _PART.findall(location)[-1:] or [location]
    bare = [last[0].removesuffix(suffix) for suffix in _SUFFIXES if last[0].endswith(suffix) and len(last[0]) > 2]
    return list(dict.fromkeys([location, *last, *bare]))

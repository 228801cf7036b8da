"""What a method does on a benchmark, setting by setting, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.config import resolve
from ovbench.layers import layers_of, merge, method_config
from ovbench.results.published import published_for


def explain(
    method: str,
    dataset: str,
    overrides: Mapping[str, str] | None = None,
    backbones: Mapping[str, str] | None = None,
    protocol: str = "paper",
) -> dict[str, Any]:
    """``settings``: rows of table, setting, value, the file that decides it, and the publication it follows;
    ``published``: the figures that the literature reports for the pair, in percent."""
    cell = resolve(method, dataset, overrides, backbones, protocol)
    decided_by = merge(layers_of(method, dataset, protocol)).decided_by
    given = {*(overrides or {}), *(f"backbones.{name}" for name in backbones or {})}
    rows = []
    for table, values in cell.as_dict().items():
        for key, value in values.items() if isinstance(values, dict) else ():
            layer = decided_by.get((table, key))
            name = {"regions": "regions" if key == "source" else f"regions.{key}"}.get(table, key)
            if name in given or f"{table}.{key}" in given:
                origin, source = "the command line", ""
            elif layer is not None:
                origin, source = layer.origin, layer.source
            else:
                origin, source = "default", ""
            rows.append({"table": table, "setting": key, "value": value, "from": origin, "source": source})
    title = method_config(method).get("title", method)
    wanted = ("value", "variant", "postprocess", "reported_by", "note")
    figures = [{key: getattr(row, key) for key in wanted} for row in published_for(title, dataset)]
    return {"method": method, "dataset": dataset, "protocol": protocol, "settings": rows, "published": figures}

"""What the provider injects into Spark jobs, for each of some transports."""

from __future__ import annotations

import copy

from probe import argument, give, listener, listener_manager


def injected(transport: dict) -> dict:
    from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
    from airflow.providers.openlineage.utils.spark import inject_transport_information_into_spark_properties
    from openlineage.client import OpenLineageClient

    client = OpenLineageClient(config={"transport": copy.deepcopy(transport)})
    listener().adapter = OpenLineageAdapter(client)
    try:
        return inject_transport_information_into_spark_properties({"spark.app.name": "x"}, {})
    finally:
        client.close(0)


def main() -> None:
    listener_manager()
    give([injected(transport) for transport in argument(1)])


if __name__ == "__main__":
    main()

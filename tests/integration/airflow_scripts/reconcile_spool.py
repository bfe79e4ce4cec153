"""Leave events in a spool as a scheduler does that is killed: accepted, and in no worker's hand.

Arguments: the folder of the spools, and DAG ids with the dates and clear numbers of their runs.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from probe import argument, give, listener, listener_manager


def main() -> None:
    from keepline.airflow.resident import portable
    from keepline.pool.settings import Bounds
    from keepline.pool.spool import Spool
    from keepline.pool.written import arguments_of, pack

    listener_manager()
    spool = Spool(Path(argument(1)), Bounds())
    adapter = listener().adapter
    for dag_id, date, cleared in argument(2):
        told = {"dag_id": dag_id, "logical_date": datetime.fromisoformat(date), "clear_number": cleared}
        try:
            from airflow.providers.openlineage.plugins.listener import _run_adapter_method

            call = (_run_adapter_method, ("dag_started",), told)
        except ImportError:
            call = (portable(adapter.dag_started), (), told)
        spool.append(pack("run", arguments_of(call, {}), time.time()))
    give(None)
    os._exit(0)


if __name__ == "__main__":
    main()

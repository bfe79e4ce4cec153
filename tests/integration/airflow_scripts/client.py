"""What the client of the listener's adapter was made of, and what Keepline's own look-up comes to."""

from __future__ import annotations

from probe import give, listener, listener_manager, run


def main() -> None:
    listener_manager()
    transport = listener().adapter.get_or_create_openlineage_client().transport

    from keepline.airflow.configuration import settings
    from keepline.cli.common import find_outbox

    looked_up = settings()
    give(
        {
            "class": f"{type(transport).__module__}.{type(transport).__qualname__}",
            "legs": {
                leg.name: {
                    "kind": leg.kind,
                    "url": getattr(leg, "url", None) or leg.config.site,
                    "key": leg.config.auth.get_bearer() if leg.kind == "http" else leg.config.apiKey,
                }
                for leg in transport.transports
            },
            "outbox": str(transport.config.settings.outbox),
            "command line's": str(find_outbox(None, may_come=True).folder),
            "the same": transport.config.settings.digest("salt") == looked_up.digest("salt"),
        }
    )


if __name__ == "__main__":
    run(main)

"""Every script, wherever Airflow lets one write: ids, tags, documentation, owners, parameters, values."""

from __future__ import annotations

from parity_support.versions import BashOperator, PythonOperator, TaskGroup, a_dag

with a_dag(
    "größe_東京_Ωμέγα",
    description="Größe — размер — サイズ — 🙂",
    tags=["größe", "東京", "🙂"],
    default_args={"owner": "José Ñandú, 山田 太郎"},
    params={"größe": "groß", "数": [1, 2], "text": "line\u2028separator \u00a0 \x7f"},
    doc_md="# Überschrift\n\nТекст, 文, עברית, 🙂",
) as dag:
    with TaskGroup("gruppe_é", tooltip="Einé Gruppe 🙂"):
        BashOperator(
            task_id="größe_шаг",
            bash_command="echo 'größe {{ params[\"größe\"] }} 東京 🙂'",
            doc_md="Aufgabe: naïve café",
            owner="Zoë",
        )
    PythonOperator(
        task_id="失敗",
        python_callable=lambda: (_ for _ in ()).throw(ValueError("Fehler: größe 東京 🙂 \u2028")),
    )

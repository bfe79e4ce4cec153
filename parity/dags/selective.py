"""What the option ``selective_enable`` chooses between."""

from __future__ import annotations

from airflow.providers.openlineage.utils.selective_enable import disable_lineage, enable_lineage
from parity_support.lineage import SpeakingOperator
from parity_support.versions import BashOperator, PythonOperator, a_dag

with a_dag("chosen") as chosen:
    unchosen = PythonOperator(task_id="unchosen", python_callable=print)
    BashOperator(task_id="chosen", bash_command="true") >> unchosen
    SpeakingOperator(task_id="speaks")
enable_lineage(chosen)
disable_lineage(unchosen)

with a_dag("not_chosen"):
    alone = BashOperator(task_id="chosen_alone", bash_command="true")
    BashOperator(task_id="unchosen", bash_command="true") >> alone
enable_lineage(alone)

with a_dag("not_chosen_at_all"):
    BashOperator(task_id="unchosen", bash_command="true")

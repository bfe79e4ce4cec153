"""How DAGs are built: mapped tasks, groups, setup and teardown, labels, edges."""

from __future__ import annotations

from parity_support.versions import (
    BashOperator,
    EmptyOperator,
    Label,
    TaskGroup,
    a_dag,
    task,
    task_group,
)

with a_dag("mapped"):

    @task
    def numbers():
        return [1, 2, 3]

    @task
    def double(number, plus):
        if number == 3:
            raise ValueError("three is too many")
        return 2 * number + plus

    @task(trigger_rule="all_done")
    def total(numbers):
        return sum(numbers)

    @task_group
    def pair(number):
        @task
        def first(number):
            return number

        @task
        def second(number):
            return -number

        second(first(number))

    total(double.partial(plus=10).expand(number=numbers()))
    BashOperator.partial(task_id="literal", map_index_template="says {{ task.bash_command }}").expand(
        bash_command=["echo 1", "echo 2"]
    )
    pair.expand(number=[1, 2])

    @task
    def nothing():
        return []

    @task
    def of_nothing(one):
        return one

    of_nothing.expand(one=nothing())

with a_dag("groups"):
    begin = EmptyOperator(task_id="begin")
    with TaskGroup("outer", tooltip="outer group") as outer:
        with TaskGroup("inner", prefix_group_id=False):
            BashOperator(task_id="in_inner", bash_command="true")
        with TaskGroup("inner_2"):
            BashOperator(task_id="in_inner", bash_command="true") >> EmptyOperator(task_id="end")
    begin >> Label("to the group") >> outer >> EmptyOperator(task_id="end")

with a_dag("setup_teardown"):

    @task
    def set_up():
        return "ready"

    @task
    def work():
        raise ValueError("the work failed")

    @task
    def tear_down():
        return "tidy"

    made = set_up()
    made >> work() >> tear_down().as_teardown(setups=made)

with a_dag("setup_fails"):

    @task
    def set_up_fails():
        raise ValueError("no setup")

    @task
    def no_work():
        raise AssertionError

    @task
    def no_tear_down():
        raise AssertionError

    failing = set_up_fails()
    failing >> no_work() >> no_tear_down().as_teardown(setups=failing)

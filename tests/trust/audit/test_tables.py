"""A statement that reaches a table by its name is found, however it writes it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.trust.audit.tables import names_table

NAMES = [
    "SELECT * FROM customers",
    "select 1 from CUSTOMERS",
    'DELETE FROM "customers" WHERE id = 1',
    "TABLE public.customers",
    'TABLE public . "customers"',
    'TABLE "public"."customers"',
    "UPDATE shop.public.customers SET a = 1",
    "SELECT * FROM--other.\ncustomers",
    "SELECT * FROM public./* other. */customers",
    """SELECT '"'; SELECT * FROM customers; SELECT '"'""",
    "DO $$BEGIN EXECUTE format('TABLE %I', $a$customers$a$); END$$",
    'SELECT * FROM U&"c\\0075stomers"',
]
OTHERS = ["SELECT * FROM customers_old", "SELECT * FROM my_customers", "SELECT customers1", "BEGIN"]


@pytest.mark.parametrize("text", NAMES)
def test_it_is_named(text: str) -> None:
    assert names_table(text, "customers")
    assert names_table(text, "Public.Customers")


@pytest.mark.parametrize("text", OTHERS)
def test_another_word_is_passed_over(text: str) -> None:
    assert not names_table(text, "customers")


def test_another_schema_is_passed_over_only_where_it_is_one() -> None:
    assert not names_table('TABLE archive."customers"', "public.customers")
    assert names_table("TABLE archive.customers", "customers")
    assert names_table("TABLE archive.customers; TABLE customers", "public.customers")
    assert names_table('TABLE "my schema".customers', '"my schema".customers')


def test_what_was_cut_may_name_it() -> None:
    assert names_table("INSERT INTO a VALUES (1", "customers", is_cut=True)


@given(
    st.text(max_size=40).filter(lambda it: not it or not (it[-1].isalnum() or it[-1] in "_.")),
    st.booleans(),
    st.text(max_size=20),
)
def test_whatever_stands_around_a_statement_does_not_hide_it(before: str, is_quoted: bool, after: str) -> None:
    name = '"customers"' if is_quoted else "customers"
    assert names_table(f"{before} FROM {name} ;{after}", "public.customers")

"""The trail in Django's admin, under a real server and in a real browser."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import fapilog
from fapilog import AuditTrail
from tests.doubles import django_site
from tests.doubles.browser import browsing
from tests.doubles.servers import free_port, running, wait_for

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytest.importorskip("django")
pytest.importorskip("gunicorn")
by: Any = pytest.importorskip("selenium.webdriver.common.by").By

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[2]
COLUMNS = ["EVENT", "TIME", "LEVEL", "TYPE", "OUTCOME", "USER", "ADDRESS", "TARGET", "MESSAGE"]


@pytest.fixture
def trail(tmp_path: Path) -> AuditTrail:
    """Return the trail that the server writes to."""
    return AuditTrail(storage_path=tmp_path / "audit")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    """Yield a browser."""
    with browsing(tmp_path) as browser:
        yield browser


@pytest.fixture
def site(tmp_path: Path, browser: Chrome) -> Iterator[str]:
    """Yield the address of the site, which has a patient, and a member of the staff who may do all."""
    django_site.set_up()
    user: Any = importlib.import_module("django.contrib.auth.models").User(username="root", is_staff=True)
    user.is_superuser = True
    user.set_password("correct horse")
    patients: Any = importlib.import_module("tests.integrations.apps.django_site.models").Patient.objects
    user.__class__.objects.bulk_create([user])
    patients.bulk_create([patients.model(pk=42, name="Ann")])
    django_site.copy_database(tmp_path)
    patients.filter(pk=42).delete()
    user.__class__.objects.filter(username="root").delete()
    port = free_port()
    command = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "4", f"{django_site.SERVERS}:browsed"]
    path = os.pathsep.join([str(Path(fapilog.__file__).parents[1]), str(ROOT)])
    with running(command, tmp_path, PYTHONPATH=path, SITE=str(tmp_path)) as process:
        wait_for(port, process, tmp_path)
        yield f"http://127.0.0.1:{port}/admin/"


def shown(browser: Chrome) -> list[dict[str, str]]:
    """Return the events in the table of the page, by the titles of its columns."""
    titles = [each.text for each in browser.find_elements(by.CSS_SELECTOR, "#result_list thead th")]
    assert titles == COLUMNS
    rows = browser.find_elements(by.CSS_SELECTOR, "#result_list tbody tr")
    return [dict(zip(titles, (cell.text for cell in row.find_elements(by.XPATH, "*")), strict=True)) for row in rows]


def follow(browser: Chrome, how: str, what: str) -> None:
    """Click on a link or a button, and return when the next page is there."""
    # Not at the top: where only quick tests run, every worker would load a browser's driver for nothing.
    waiting: Any = importlib.import_module("selenium.webdriver.support.wait").WebDriverWait
    error: Any = importlib.import_module("selenium.common.exceptions").WebDriverException
    browser.execute_script("window.isLeft = true")
    browser.find_element(how, what).click()
    # Asked between the two pages, the driver answers with errors of many kinds.
    is_there = "return !window.isLeft && document.readyState === 'complete'"
    waiting(browser, 60, ignored_exceptions=[error]).until(lambda _: browser.execute_script(is_there))


@pytest.mark.slow
def test_the_staff_find_out_who_did_what(site: str, browser: Chrome, trail: AuditTrail) -> None:
    """Someone signs in, filters the trail, opens an event, changes an object, and asks who did what to that object."""
    trail.sync.log_data_access("django_site.patient/42", "read", user_id="mallory", client_ip="192.0.2.7")
    trail.sync.log_data_access("django_site.patient/43", "read", user_id="bob")

    browser.get(site)
    browser.find_element(by.NAME, "username").send_keys("root")
    browser.find_element(by.NAME, "password").send_keys("correct horse")
    follow(browser, by.CSS_SELECTOR, "input[type=submit]")
    follow(browser, by.LINK_TEXT, "Audit trail")
    assert browser.find_element(by.TAG_NAME, "h1").text == "Audit trail"
    events = shown(browser)
    # The look itself is the newest one.
    assert [(event["TYPE"], event["USER"]) for event in events[:2]] == [
        ("audit_log_access", "root"),
        ("authentication_succeeded", "root"),
    ]

    browser.find_element(by.NAME, "user_id").send_keys("mallory")
    follow(browser, by.CSS_SELECTOR, "input[type=submit][value=Show]")
    [event] = shown(browser)
    assert (event["USER"], event["ADDRESS"], event["TARGET"]) == ("mallory", "192.0.2.7", "django_site.patient/42")
    assert browser.find_element(by.NAME, "user_id").get_attribute("value") == "mallory"

    follow(browser, by.LINK_TEXT, event["EVENT"])
    assert browser.find_element(by.TAG_NAME, "h1").text == f"Event {event['EVENT']}"
    assert "type django_site.patient, id 42" in browser.find_element(by.ID, "content-main").text

    browser.get(f"{site}django_site/patient/42/change/")
    name = browser.find_element(by.NAME, "name")
    name.clear()
    name.send_keys("Anna")
    follow(browser, by.NAME, "_continue")
    follow(browser, by.CSS_SELECTOR, ".historylink")
    changed, read = shown(browser)
    assert (changed["USER"], changed["OUTCOME"]) == ("root", "success")
    assert "name: Ann → Anna" in changed["MESSAGE"]
    assert read["USER"] == "mallory"

    follow(browser, by.LINK_TEXT, "All events about this object")
    assert [each["EVENT"] for each in shown(browser)] == [changed["EVENT"], read["EVENT"]]

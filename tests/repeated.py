"""A pytest plugin that runs each test many times over; `nox -s repeat` uses it.

A test that fails once in a hundred runs fails in the hands of whoever installs us. Repeating it in
one process costs no import of torch each time. The last run is reported, or the first that fails.
"""

import pytest
from _pytest.runner import runtestprotocol


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take `--repeat`."""
    parser.addoption("--repeat", type=int, default=200, help="how often each test is run")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    """Set up, run and take down a test so often; fixtures are made anew each time."""
    times: int = item.config.getoption("--repeat")
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for number in range(1, times + 1):
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        failed = [report for report in reports if report.failed]
        for report in failed:
            report.sections.append(("repeated", f"It failed in run {number} of {times}."))
        if failed or number == times:
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True

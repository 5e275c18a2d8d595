"""The dashboard's page loads nothing from the network. (That asv's own page can be rewritten: `make bench-smoke`.)"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "asv_benchmarks"
specification = importlib.util.spec_from_file_location("offline", FOLDER / "offline.py")
offline = importlib.util.module_from_spec(specification)
specification.loader.exec_module(offline)

PAGE = """
<script src="https://code.jquery.com/jquery-3.3.1.min.js" integrity="sha256-x=" onerror="js_load_failure()"></script>
<script src="https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.time.min.js" crossorigin="anonymous"></script>
<script language="javascript" src="asv.js"></script>
<link rel="stylesheet" href="https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css" integrity="x">
<link href="asv.css" rel="stylesheet" type="text/css"/>
<a href="https://github.com/airspeed-velocity/asv/" class="navbar-link">asv</a>
"""


def test_addresses_become_files_of_the_packages():
    page, assets = offline.localise(PAGE)
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {
        *assets, "asv.js", "asv.css", "https://github.com/airspeed-velocity/asv/",
    }  # fmt: skip
    assert assets == {
        "assets/js/jquery.min.js": "jquery/dist/jquery.min.js",
        "assets/js/jquery.flot.time.js": "flot/jquery.flot.time.js",
        "assets/css/bootstrap.min.css": "bootstrap/dist/css/bootstrap.min.css",
    }
    assert "integrity" not in page
    assert "onerror" not in page


@pytest.mark.parametrize("asset", ["moment.min.js", "theme-2.0.css", "logo.svg"])
def test_what_no_package_is_known_for_is_an_error(asset):
    with pytest.raises(LookupError, match=asset):
        offline.localise(PAGE + f'<script src="https://example.org/{asset}"></script>')
    with pytest.raises(LookupError, match="loads nothing from the network"):
        offline.localise(offline.localise(PAGE)[0])


def test_every_file_is_of_a_package_that_is_installed_and_pinned():
    versions = json.loads((FOLDER / "package.json").read_text())["dependencies"]
    assert {place.partition("/")[0] for place in (*offline.PACKAGES.values(), offline.FONTS)} == set(versions)
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in versions.values())

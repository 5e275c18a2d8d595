"""Make asv's published page load its scripts and styles from files beside it, so that it opens without a network.

    python asv_benchmarks/offline.py            after `asv publish` and `npm install`, in any folder

The page names each asset by a web address; the file of the same name (``jquery-3.3.1.min.js`` is ``jquery``) from the packages
of ``package.json`` takes its place. An address that no file is known for is an error, not a page that breaks later.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {
    "jquery": "jquery/dist/jquery.min.js",
    "jquery.flot": "flot/jquery.flot.js",
    "jquery.flot.time": "flot/jquery.flot.time.js",
    "jquery.flot.selection": "flot/jquery.flot.selection.js",
    "jquery.flot.categories": "flot/jquery.flot.categories.js",
    "jquery.flot.orderBars": "flot-orderbars/js/jquery.flot.orderBars.js",
    "stupidtable": "stupid-table-plugin/stupidtable.min.js",
    "md5": "blueimp-md5/js/md5.min.js",
    "bootstrap.js": "bootstrap/dist/js/bootstrap.min.js",
    "bootstrap.css": "bootstrap/dist/css/bootstrap.min.css",
}
"""What the page loads, by the name of its file without version and ending, to its place among the packages."""
FONTS = "bootstrap/dist/fonts"  # which bootstrap.css looks for in ../fonts

TAG = re.compile(r'<(script|link)\b[^>]*?(?:src|href)="(https?://[^"]*/([^/"]+))"[^>]*>')


def asset_of(file_name: str) -> str:
    """Place among the packages of the asset that the page calls by a file name."""
    stem, ending = re.fullmatch(r"(.+?)(?:-[\d.]+)?(?:\.min)?(\.js|\.css)", file_name).groups()
    return PACKAGES.get(stem + ending) or PACKAGES[stem]


def localise(page: str) -> tuple[str, dict[str, str]]:
    """The page with local addresses, and its assets: address on the page to place among the packages.

    Raises
    ------
    LookupError
        If the page loads something that no package is known for, or nothing at all.
    """
    assets: dict[str, str] = {}

    def local(match: re.Match[str]) -> str:
        kind, _, file_name = match.groups()
        if file_name.rpartition(".")[2] not in ("js", "css"):
            raise LookupError(f"the page loads {match[2]}, which is neither a script nor a style")
        try:
            place = asset_of(file_name)
        except KeyError:
            raise LookupError(f"the page loads {match[2]}, for which package.json and PACKAGES name no file") from None
        address = f"assets/{'css' if kind == 'link' else 'js'}/{Path(place).name}"
        assets[address] = place
        return f'<script src="{address}">' if kind == "script" else f'<link rel="stylesheet" href="{address}">'

    page = TAG.sub(local, page)
    if not assets:
        raise LookupError("the page loads nothing from the network: was it made offline before?")
    return page, assets


def main() -> None:
    """Rewrite ``html/index.html`` and copy what it loads."""
    index, packages = HERE / "html" / "index.html", HERE / "node_modules"
    page, assets = localise(index.read_text(encoding="utf-8"))
    for address, place in assets.items():
        target = index.parent / address
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(packages / place, target)
    shutil.copytree(packages / FONTS, index.parent / "assets" / "fonts", dirs_exist_ok=True)
    index.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

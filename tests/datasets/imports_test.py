# SPDX-License-Identifier: Apache-2.0
"""What loading data must not import."""

import subprocess
import sys


def test_datasets_import_neither_tensorflow_nor_the_packages():
    code = (
        "import sys; import lintf.datasets as d\n"
        "for load in (d.movielens_100k, d.wikidata_films):\n"
        "  try: load()\n"
        "  except d.MissingDataError: pass\n"
        "heavy = {'tensorflow', 'recbole', 'bokeh', 'bokeh_sampledata'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert output.strip() == "[]"

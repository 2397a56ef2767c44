# SPDX-License-Identifier: Apache-2.0
"""WordNet's lexicographer classes (noun.person, verb.weather, ...) of a word.

The files are those of Debian's and Ubuntu's package wordnet-base. Licence of
the data: WordNet 3.0 licence (BSD-like); use, copies and changes are free.

Source: C. Fellbaum (ed.), "WordNet: An Electronic Lexical Database", 1998; the
file format is wndb(5WN), the classes are lexnames(5WN).
"""

import collections
import pathlib

from lintf.datasets import _packages

INSTALL = "apt-get install wordnet-base"
DEFAULT_FOLDER = pathlib.Path("/usr/share/wordnet")

# The class of a synset is the number of the lexicographer's file: lexnames(5WN)
CLASSES = (
    *"adj.all adj.pert adv.all noun.Tops noun.act noun.animal".split(),
    *"noun.artifact noun.attribute noun.body noun.cognition".split(),
    *"noun.communication noun.event noun.feeling noun.food noun.group".split(),
    *"noun.location noun.motive noun.object noun.person".split(),
    *"noun.phenomenon noun.plant noun.possession noun.process".split(),
    *"noun.quantity noun.relation noun.shape noun.state".split(),
    *"noun.substance noun.time verb.body verb.change verb.cognition".split(),
    *"verb.communication verb.competition verb.consumption".split(),
    *"verb.contact verb.creation verb.emotion verb.motion".split(),
    *"verb.perception verb.possession verb.social verb.stative".split(),
    *"verb.weather adj.ppl".split(),
)

_PARTS = ("noun", "verb", "adj", "adv")


def wordnet_classes(
    folder: pathlib.Path = DEFAULT_FOLDER,
) -> dict[str, frozenset[str]]:
    """Reads the classes that each word has in one of its senses.

    Words are in lower case, as GloVe's are; the parts of a compound are joined
    by "_", as in the files.

    Args:
      folder: where `data.noun`, `data.verb`, `data.adj` and `data.adv` lie.

    Returns:
      Word -> the classes of its senses, each one of `CLASSES`.

    Raises:
      MissingDataError: the files are not there.
      ValueError: a line is not in WordNet's format.
    """
    classes: dict[str, set[str]] = collections.defaultdict(set)
    for part in _PARTS:
        path = folder / f"data.{part}"
        if not path.is_file():
            raise _packages.MissingDataError(
                f"this data set needs WordNet's file {path}, which is not "
                f"there; install it with: {INSTALL}",
                name="wordnet-base",
            )
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                # The licence at the top of each file is set in by two blanks.
                if line.startswith("  "):
                    continue
                try:
                    name, words = _parse(line)
                except (IndexError, ValueError) as error:
                    raise ValueError(
                        f"{path}:{number}: expected a synset as wndb(5WN) "
                        f"describes it, got {line[:60]!r}"
                    ) from error
                for word in words:
                    classes[word].add(name)
    return {word: frozenset(names) for word, names in classes.items()}


def _parse(line: str) -> tuple[str, list[str]]:
    """Parses a synset's line into its class and its words.

    The line begins: offset, file number (decimal), type, number of words
    (hexadecimal), then a word and its sense's number for each word. An
    adjective may carry its position in brackets: "galore(ip)".

    Example:
      >>> _parse("00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 | that")
      ('noun.Tops', ['entity'])
      >>> _parse("00000000 00 a 02 Galore(ip) 0 plenty 0 000 | much")
      ('adj.all', ['galore', 'plenty'])
    """
    fields = line.split(" ")
    count = int(fields[3], 16)
    words = fields[4 : 4 + 2 * count : 2]
    if len(words) != count:
        raise ValueError(f"{count} words announced, {len(words)} found")
    return CLASSES[int(fields[1])], [
        word.lower().split("(")[0] for word in words
    ]

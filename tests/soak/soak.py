# SPDX-License-Identifier: Apache-2.0
"""Live updates under faults, and what is left in the index at the end.

    make soak               # five minutes
    make soak MINUTES=60

While changes flow and queries run, at random moments: the server and the
ingester are killed, versions are swapped for snapshots, the broker is paused,
the log's tail is torn, the index is filled, malformed changes are sent. First
with the file log, then with Kafka's protocol. At the end the index is compared,
id by id, with a brute-force replay of the log. The last line is the tally:

  lost   items whose last change the index does not show
  twice  items that came back after their delete, and rows beside an item's own
  torn   rows, also those returned meanwhile, that mix two states of an item
"""

from __future__ import annotations

import argparse
import pathlib
import random
import shutil
import sys
import tempfile
import traceback

from tests.soak.phase import Phase, Result

KINDS = ("file", "kafka")


def main(arguments: list[str] | None = None) -> int:
    """Runs the soak; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    flags = parser.parse_args(arguments)
    seed = flags.seed
    if seed is None:
        seed = random.SystemRandom().getrandbits(31)
    print(f"soak: --seed={seed} makes the same choices again", flush=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lintf-soak-"))
    total, failed = Result(), False
    phases = {
        kind: Phase(kind, folder / kind, flags.rate, seed + number)
        for number, kind in enumerate(flags.kinds)
    }
    left = list(phases.values())
    for kind, phase in phases.items():
        left.remove(phase)
        # Each fault is made at least once, by the last phase that can.
        later = {name for other in left for name in other.faults()}
        due = set(phase.faults()) - later - set(total.faults)
        try:
            phase.run(60.0 * flags.minutes / len(phases), due)
        except Exception:
            failed = True
            traceback.print_exc()
        failed |= not phase.result.is_good
        for error in phase.result.errors[:20]:
            print(f"soak: {kind}: ERROR: {error}", flush=True)
        total += phase.result
        if failed:
            break
    if failed:
        print(f"soak: FAILED; what the processes said is in {folder}")
    else:
        shutil.rmtree(folder)
    print(f"soak: {total}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

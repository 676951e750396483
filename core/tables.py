"""Write core/squash.inc, the table SQ of the arithmetic coder's models: `python core/tables.py > core/squash.inc`.

SQ[i] = 65536 / (1 + exp((4096 - i) / 256)), i = 0..8191, rounded half up, held in 1..65535: the probability that
belongs to log-odds of (i - 4096) / 256 nat. Decimals of 40 digits, never a float: what libm gives for exp differs
between machines, and one different entry makes every stream unreadable.
"""

import sys
from decimal import ROUND_HALF_UP, Decimal, localcontext

PER_LINE = 16


def squash() -> list[int]:
    """Return SQ as 8192 ints."""
    with localcontext(prec=40):
        exact = [Decimal(65536) / (1 + (Decimal(4096 - i) / 256).exp()) for i in range(8192)]
        return [min(max(int(x.to_integral_value(ROUND_HALF_UP)), 1), 65535) for x in exact]


def main() -> None:
    """Print the table as the inside of a C++ initialiser."""
    table = squash()
    for at in range(0, len(table), PER_LINE):
        sys.stdout.write(", ".join(map(str, table[at : at + PER_LINE])) + ",\n")


if __name__ == "__main__":
    main()

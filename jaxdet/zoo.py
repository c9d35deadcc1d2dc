"""The zoo's table: `python -m jaxdet.zoo` prints it as Markdown."""

from collections.abc import Sequence

from jaxdet.published import ROWS, ZOO_SITES, Row

HEADER = (
    "Backbone",
    "Style",
    "Lr schd",
    "Mem (GB)",
    "Train time (s/iter)",
    "Inf time (fps)",
    "AR1000",
    "Download",
)


def markdown_table(rows: Sequence[Row] = ROWS) -> str:
    """The published table, every cell centred in its column; '-' where nothing is published."""
    return _align([HEADER, *map(_cells, rows)])


def _cells(row: Row) -> tuple[str, ...]:
    link = f"[model]({ZOO_SITES[0]}/{row.path})" if row.path else None
    figures = (row.memory, row.train_time, row.fps, row.ar1000, link)
    published = ("-" if figure is None else str(figure) for figure in figures)
    return (row.backbone, row.style, row.schedule, *published)


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Markdown with a rule below the first line."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def centred(text: str, width: int) -> str:
        left = (width - len(text)) // 2
        return " " * left + text + " " * (width - len(text) - left)

    head, *body = ([*map(centred, line, widths)] for line in lines)
    rule = [f":{'-' * (width - 2)}:" for width in widths]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def main() -> None:
    """Prints the table."""
    print(markdown_table())


if __name__ == "__main__":
    main()

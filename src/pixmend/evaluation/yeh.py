"""The table of Yeh et al. (2017): its masks, and its published figures to stand beside."""

from pixmend.evaluation.summary import Summary

# The paper's pattern misses about a quarter of the image; ours, of blobs, is drawn for each image as its own.
YEH_MASKS = ("center", "strokes:0.25", "random:0.8", "half")
_NAMES = ("centre", "pattern", "random 80 %", "half")
# Table 1 of the paper: Context Encoder, then its own method, in dB of the completed image.
_PUBLISHED = {
    "CelebA": ((21.3, 19.4), (19.2, 17.4), (20.6, 22.8), (15.5, 13.7)),
    "SVHN": ((22.3, 19.0), (22.3, 19.8), (24.1, 33.0), (19.1, 14.6)),
    "Cars": ((14.1, 13.5), (14.0, 14.1), (16.1, 18.9), (12.6, 11.1)),
}


def yeh_table(summary: Summary) -> str:
    """Return the paper's table with a row for each of our methods, as markdown: PSNR of the whole image, as there, then of the hole."""
    lines = [f"| | {' | '.join(_NAMES)} |", "|---" * 5 + "|"]
    for data, figures in _PUBLISHED.items():
        for column, who in enumerate(("Context Encoder", "Yeh 2017")):
            published = " | ".join(f"{figure[column]:.1f}" for figure in figures)
            lines.append(f"| {who}, {data}, published | {published} |")
    for label in summary.labels:
        cells = []
        for mask in YEH_MASKS:
            of = summary.cells[label, mask].figures
            cells.append(f"{of['whole_psnr'].mean:.1f} (hole {of['psnr'].mean:.1f})")
        lines.append(f"| {label}, here | {' | '.join(cells)} |")
    return "\n".join(lines)

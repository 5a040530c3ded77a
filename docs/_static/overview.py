"""Draws the picture of the first page: `python docs/_static/overview.py > docs/_static/overview.svg`."""

from __future__ import annotations

# The card brings its own background: the page's colours may differ from what the system prefers.
STYLE = """
svg { font: 14px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
.card { fill: #ffffff; stroke: #d0d7de } text { fill: #1f2328 } .small { font-size: 12px; fill: #57606a }
.bold { font-weight: 600 } .middle { text-anchor: middle } .end { text-anchor: end }
.root { fill: #fff4e5; stroke: #bc6c0c } .socket { fill: #e6f0ff; stroke: #1f6feb }
.client { fill: #f6f8fa; stroke: #8c959f } .cgroup { fill: none; stroke: #2da44e; stroke-dasharray: 6 4 }
.space { fill: #eefbf1; stroke: #2da44e } .track { fill: #d5e8da } .level { fill: #2da44e }
.request { stroke: #1f6feb; fill: none; stroke-width: 2 } .care { stroke: #bc6c0c; fill: none; stroke-dasharray: 3 4 }
.point { fill: #1f6feb } .hold { fill: #bc6c0c }
@media (prefers-color-scheme: dark) {
  .card { fill: #0d1117; stroke: #30363d } text { fill: #e6edf3 } .small { fill: #9ea7b3 }
  .root { fill: #2b2113; stroke: #d9913a } .socket { fill: #12233d; stroke: #58a6ff }
  .client { fill: #161b22; stroke: #6e7681 } .cgroup { stroke: #3fb950 } .space { fill: #10241a; stroke: #3fb950 }
  .track { fill: #21442d } .level { fill: #3fb950 } .request { stroke: #58a6ff } .care { stroke: #d9913a }
  .point { fill: #58a6ff } .hold { fill: #d9913a }
}
"""
ALT = (
    "Clients connect to port 80. The supervisor, which runs as root, keeps the listening socket open; three instances "
    "accept from it at descriptor 3, each in a cgroup and in namespaces of its own."
)
INSTANCES = ((116, 5), (220, 5), (324, 6))  # top edge, MiB of memory in use
LIMIT = 64  # MiB
SOCKET_LEFT, SOCKET_RIGHT, SOCKET_MIDDLE = 222, 406, 266
INSTANCE_LEFT, INSTANCE_WIDTH, INSTANCE_HEIGHT = 520, 300, 92
RAIL = 848


def text(x: int, y: int, content: str, kind: str = "") -> str:
    """One line of text; `kind` names its classes."""
    return f'<text x="{x}" y="{y}" class="{kind}">{content}</text>'


def box(x: int, y: int, width: int, height: int, kind: str, radius: int = 8) -> str:
    """A rectangle with round corners."""
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="{radius}" class="{kind}"/>'


def line(path: str, kind: str, marker: str) -> str:
    """A path that ends in an arrowhead."""
    return f'<path d="{path}" class="{kind}" marker-end="url(#{marker})"/>'


def arrowhead(name: str) -> str:
    """The end of a line; named as its class."""
    return (
        f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
        f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 0 8 4 0 8z" class="{name}"/></marker>'
    )


def supervisor() -> list[str]:
    """The process that runs as root, above all else."""
    return [
        box(SOCKET_LEFT, 20, 640, 64, "root"),
        text(SOCKET_LEFT + 16, 46, "supervisor", "bold"),
        text(SOCKET_LEFT + 104, 46, "lithos run, as root", "small"),
        text(
            SOCKET_LEFT + 16,
            68,
            "opens the port · starts, limits, restarts instances · keeps their logs · sees no request",
            "small",
        ),
        line(f"M312 84V{SOCKET_MIDDLE - 52}", "care", "hold"),
        text(322, 154, "opens and keeps", "small"),
    ]


def clients() -> list[str]:
    """Three clients and their connections."""
    drawn = []
    for y in (174, 250, 326):
        drawn += [box(24, y, 88, 32, "client"), text(68, y + 21, "client", "middle")]
        drawn.append(
            line(
                f"M112 {y + 16}C170 {y + 16} 160 {SOCKET_MIDDLE} {SOCKET_LEFT - 2} {SOCKET_MIDDLE}", "request", "point"
            )
        )
    return drawn


def socket() -> list[str]:
    """The listening socket with its queue."""
    middle = (SOCKET_LEFT + SOCKET_RIGHT) // 2
    return [
        box(SOCKET_LEFT, SOCKET_MIDDLE - 48, SOCKET_RIGHT - SOCKET_LEFT, 96, "socket", 20),
        text(middle, SOCKET_MIDDLE - 18, "one listening socket", "bold middle"),
        text(middle, SOCKET_MIDDLE + 4, "port 80", "middle"),
        text(middle, SOCKET_MIDDLE + 28, "outlives its instances", "small middle"),
    ]


def instance(index: int, top: int, used: int) -> list[str]:
    """One instance: a cgroup around namespaces around a process, and its connections."""
    left, right = INSTANCE_LEFT, INSTANCE_LEFT + INSTANCE_WIDTH
    middle = top + INSTANCE_HEIGHT // 2
    gauge = 96
    return [
        box(left, top, INSTANCE_WIDTH, INSTANCE_HEIGHT, "cgroup", 10),
        text(left + 14, top + 20, "own cgroup", "small"),
        box(left + 100, top + 11, gauge, 9, "track", 4),
        box(left + 100, top + 11, gauge * used // LIMIT, 9, "level", 4),
        text(right - 12, top + 20, f"{used} of {LIMIT} MiB", "small end"),
        box(left + 10, top + 30, INSTANCE_WIDTH - 20, INSTANCE_HEIGHT - 40, "space", 6),
        text(left + 24, top + 51, f"run/shop.{index}", "bold"),
        text(left + 24, top + 70, "own namespaces · runs as nobody", "small"),
        line(
            f"M{SOCKET_RIGHT} {SOCKET_MIDDLE}C460 {SOCKET_MIDDLE} 460 {middle} {left - 2} {middle}", "request", "point"
        ),
        text(left - 10, middle - 8 if middle <= SOCKET_MIDDLE else middle + 18, "fd 3", "small end"),
        line(f"M{RAIL} {middle}H{right + 2}", "care", "hold"),
    ]


def picture() -> str:
    """The whole SVG."""
    drawn = [box(1, 1, 878, 434, "card", 12), *supervisor(), *clients()]
    for index, (top, used) in enumerate(INSTANCES):
        drawn += instance(index, top, used)
    drawn += [f'<path d="M{RAIL} 84V{INSTANCES[-1][0] + INSTANCE_HEIGHT // 2}" class="care"/>', *socket()]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 880 436" role="img" aria-label="{ALT}">'
    style = f"<style>{STYLE}</style>\n<defs>{arrowhead('point')}{arrowhead('hold')}</defs>"
    return "\n".join([head, style, *drawn, "</svg>"])


if __name__ == "__main__":
    print(picture())

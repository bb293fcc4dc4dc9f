"""The look of the report: light, dark, narrow screens and paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #f4f5f7; --card: #fff; --ink: #1d2430; --soft: #5c6675; --line: #dde1e7;
  --bad: #b3261e; --bad-soft: #fbe9e7; --good: #1c7440; --good-soft: #e6f4eb; --warn: #8a5a00; --warn-soft:
  #fdf1d8; --accent: #2457a6; }
@media (prefers-color-scheme: dark) {
  :root:not([data-theme=light]) { --paper: #14171c; --card: #1d2128; --ink: #e7eaef; --soft: #a0a9b6; --line:
    #343b46; --bad: #ff8a80; --bad-soft: #40211f; --good: #7fd6a0; --good-soft: #1b3526; --warn: #f2c063;
    --warn-soft: #3c3018; --accent: #8ab4f8; }
}
:root[data-theme=light] { color-scheme: light; }
:root[data-theme=dark] { color-scheme: dark; --paper: #14171c; --card: #1d2128; --ink: #e7eaef; --soft: #a0a9b6;
  --line: #343b46; --bad: #ff8a80; --bad-soft: #40211f; --good: #7fd6a0; --good-soft: #1b3526; --warn: #f2c063;
  --warn-soft: #3c3018; --accent: #8ab4f8; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px; max-width: 1360px; background: var(--paper); color: var(--ink); font:
  15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans SC", "PingFang SC", "Microsoft YaHei",
  "Noto Sans CJK SC", sans-serif; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: 4px 20px; margin-bottom: 18px; }
h1 { font-size: 26px; margin: 0; }
h2 { font-size: 16px; margin: 0 0 10px; }
header p { color: var(--soft); margin: 0; }
.buttons { margin-left: auto; display: flex; gap: 8px; }
button, select, input { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line);
  border-radius: 7px; padding: 5px 11px; }
button { cursor: pointer; }
button:hover { border-color: var(--accent); }
button:disabled { opacity: .4; cursor: default; }
button:focus-visible, a:focus-visible, select:focus-visible, input:focus-visible { outline: 2px solid
  var(--accent); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin-bottom:
  14px; }
.tile { text-align: left; padding: 12px 16px; border-radius: 10px; display: grid; align-content: start;
  border-left-width: 5px; }
.tile strong { font-size: 30px; line-height: 1.2; }
.tile small, .tile span { color: var(--soft); }
.tile.anomalous { border-left-color: var(--bad); }
.tile.anomalous strong { color: var(--bad); }
.tile.normal { border-left-color: var(--good); }
.tile.normal strong { color: var(--good); }
.tile.differs, .tile.error, .tile.uncertain { border-left-color: var(--warn); }
.tile.uncertain strong { color: var(--warn); }
.tile[aria-pressed=true] { box-shadow: 0 0 0 2px var(--accent); }
.columns { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1.2fr); gap: 14px; }
.columns > :last-child:nth-child(odd) { grid-column: 1 / -1; }
.panel, .card, .list { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px;
  }
.histogram { width: 100%; display: block; }
.histogram path { stroke: var(--soft); fill: none; }
.histogram text { font-size: 11px; fill: var(--soft); }
.histogram .mark { stroke: var(--ink); stroke-dasharray: 4 3; }
.histogram .normal, .key .normal { fill: var(--good); background: var(--good); }
.histogram .anomalous, .key .anomalous { fill: var(--bad); background: var(--bad); }
.histogram .uncertain, .key .uncertain { fill: var(--warn); background: var(--warn); }
.key i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin: 0 4px 0 8px; }
.key, .help, small { color: var(--soft); font-size: 13px; margin: 4px 0 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 16px; margin: 0 0 12px; }
dt { color: var(--soft); }
dd { margin: 0; }
.legend { max-width: 420px; }
.legend div { height: 14px; border: 1px solid var(--line); border-radius: 4px; background-color: #fff; }
.legend p { display: flex; justify-content: space-between; margin: 1px 0; font-size: 12px; }
.references { display: flex; flex-wrap: wrap; gap: 8px; align-items: end; }
.references p { margin: 0; color: var(--soft); }
figure { margin: 0; }
.references img { height: 76px; max-width: 130px; object-fit: cover; border-radius: 6px; display: block; }
.references figcaption { font-size: 11px; color: var(--soft); max-width: 130px; overflow: hidden; text-overflow:
  ellipsis; white-space: nowrap; }
#controls { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; position: sticky; top: 0; z-index: 2;
  background: var(--paper); padding: 12px 0; margin-top: 6px; }
#controls label { display: flex; align-items: center; gap: 6px; color: var(--soft); }
#controls select, #controls input { color: var(--ink); }
#controls input[type=search] { flex: 1 1 180px; min-width: 120px; }
#controls input[type=range] { width: 100px; padding: 0; }
.card { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr) minmax(0, 1.25fr);
  grid-template-rows: auto 1fr; gap: 14px 18px; margin-bottom: 14px; border-left: 5px solid var(--line); }
.card.anomalous { border-left-color: var(--bad); }
.card.normal { border-left-color: var(--good); }
.card.error, .card.uncertain { border-left-color: var(--warn); }
.frame { position: relative; margin: 0 auto; background: var(--line); border-radius: 4px; overflow: hidden; }
button.frame { display: block; border: 0; padding: 0; }
.frame > * { position: absolute; inset: 0; width: 100%; height: 100%; }
figcaption { color: var(--soft); font-size: 12px; text-align: center; margin-top: 3px; }
.frame .heat { opacity: var(--heat, 1); }
.frame polygon { fill: none; stroke: #fff; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.frame polygon.under { stroke: #111; stroke-width: 4; }
.frame circle { fill: #111; stroke: #fff; vector-effect: non-scaling-stroke; }
.frame text { fill: #fff; text-anchor: middle; dominant-baseline: central; font-weight: 600; }
.card .facts { grid-area: 1 / 3 / span 2; }
.card .beside { grid-area: 2 / 1 / auto / span 2; }
.facts h2 { margin: 0 0 6px; font-size: 15px; }
.badge { display: inline-block; white-space: nowrap; font-weight: 650; border-radius: 6px; padding: 2px 10px;
  background: var(--warn-soft); color: var(--warn); }
.badge.anomalous { background: var(--bad-soft); color: var(--bad); }
.badge.normal { background: var(--good-soft); color: var(--good); }
.measures { display: flex; flex-wrap: wrap; gap: 6px 18px; align-items: center; margin-bottom: 8px; }
.measures span span { color: var(--soft); margin-right: 5px; }
blockquote { margin: 0 0 8px; padding: 6px 12px; border-left: 3px solid var(--line); background: var(--paper);
  border-radius: 0 6px 6px 0; white-space: pre-line; }
.warning { color: var(--warn); background: var(--warn-soft); padding: 4px 10px; border-radius: 6px; margin: 0 0
  8px; }
.evidence { color: var(--soft); font-size: 13px; margin: 6px 0 0; }
ul.evidence { padding-left: 17px; }
.pairs { display: flex; flex-wrap: wrap; gap: 6px 14px; margin: 4px 0 0; }
.pairs > div { display: flex; gap: 3px; }
.pairs img { width: 84px; height: 84px; border-radius: 4px; display: block; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 550; white-space: nowrap; }
th, td { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tbody tr:last-child td { border-bottom: 0; }
.number, .folders td + td, .folders th + th { text-align: right; }
.number, .whole, .folders td + td { white-space: nowrap; }
th { vertical-align: bottom; }
.scroll { max-height: 330px; overflow: auto; }
.wide { overflow-x: auto; }
.list { padding: 4px 14px; overflow-x: auto; }
.list th button { border: 0; padding: 4px 0; background: none; font-weight: 600; }
.list td { vertical-align: middle; padding: 6px 12px 6px 0; }
.list .frame { margin: 0; }
.list circle, .list .frame text { display: none; }
.list .frame polygon.under { stroke-width: 3; }
.list .frame polygon { stroke-width: 1; }
.list .answer { max-width: 340px; font-size: 13px; }
#pages { display: flex; gap: 12px; justify-content: center; align-items: center; margin: 16px 0; }
footer, .note { color: var(--soft); font-size: 13px; text-align: center; }
dialog { max-width: 96vw; max-height: 96vh; border: 0; border-radius: 10px; background: var(--card); color:
  var(--ink); padding: 16px; }
dialog::backdrop { background: #000b; }
dialog p { display: flex; gap: 16px; align-items: center; justify-content: space-between; margin: 10px 0 0; }
a { color: var(--accent); }
@media screen and (max-width: 860px) {
  body { padding: 14px; }
  .columns { grid-template-columns: minmax(0, 1fr); }
  .card { grid-template-columns: 1fr 1fr; gap: 12px; padding: 12px; }
  .card .facts, .card .beside { grid-area: auto / 1 / auto / -1; }
  .buttons { margin-left: 0; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
}
@media print {
  @page { margin: 12mm; }
  :root, :root[data-theme=dark], :root:not([data-theme=light]) { color-scheme: light; --paper: #fff; --card: #fff;
    --ink: #111; --soft: #4d5562; --line: #ccd1d8; --bad: #b3261e; --bad-soft: #fbe9e7; --good: #1c7440;
    --good-soft: #e6f4eb; --warn: #8a5a00; --warn-soft: #fdf1d8; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { padding: 0; max-width: none; font-size: 11px; }
  .buttons, #controls, #pages, dialog { display: none !important; }
  .card, .panel { break-inside: avoid; padding: 9px; }
  .card { gap: 10px; margin-bottom: 8px; }
  h1 { font-size: 20px; }
  h2, .facts h2 { font-size: 12.5px; }
  .tile { padding: 6px 10px; box-shadow: none !important; }
  .tile strong { font-size: 20px; }
  table { font-size: 9.5px; }
  th, td { padding-right: 6px; }
  .tiles { grid-template-columns: repeat(auto-fit, minmax(28mm, 1fr)); gap: 6px; }
  .columns { gap: 8px; margin-bottom: 8px; }
  .card .frame { max-height: 48mm; max-width: calc(48mm * var(--ratio)); }
  .histogram { max-height: 34mm; }
  .pairs img { width: 15mm; height: 15mm; }
  .references img { height: 14mm; }
  figcaption, .references figcaption { font-size: 9px; }
  .list { border: 0; padding: 0; }
  .scroll { max-height: none; }
  .wide { overflow: visible; }
  .list tr { break-inside: avoid; }
  small, .help, .key, .evidence { font-size: 10px; }
}
"""
"""CSS of the page."""


__all__ = ["STYLE"]

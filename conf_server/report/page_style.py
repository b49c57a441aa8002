"""How the page looks on a screen, on a telephone and on paper, and the little that it does."""

from __future__ import annotations

from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f23; --soft: #5d6570; --paper: #ffffff;
  --line: #d5d9de; --panel: #f5f6f8; --mark: #0072b2; --wrong: #b34700; --right: #0072b2; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3e6ea; --soft: #9aa3ae; --paper: #15181c; --line: #3a4048; --panel: #1d2126;
    --mark: #56b4e9; --wrong: #f08c4a; --right: #56b4e9; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1.25rem clamp(.9rem, 3vw, 2rem) 3rem; max-width: 76rem;
  color: var(--ink); background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1rem; font-weight: 600; color: var(--soft); margin: 0 0 .4rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; overflow-wrap: anywhere; }
h3 { font-size: 1rem; margin: 1rem 0 .5rem; }
p { margin: .4rem 0; max-width: 70ch; }
code { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere; }
a { color: inherit; text-decoration-color: var(--mark); text-underline-offset: .2em; }
a:hover { color: var(--mark); }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px; }
.claim { font-size: clamp(1.25rem, 2.4vw, 1.7rem); line-height: 1.3; font-weight: 600;
  max-width: 58ch; margin: 0 0 .6rem; text-wrap: balance; }
.soft, figcaption, .claim + p { color: var(--soft); }
.warning { border-left: 4px solid var(--wrong); background: var(--panel); padding: .6rem .9rem;
  margin: 1rem 0; overflow-wrap: anywhere; }
.warning p { max-width: none; }
nav { margin: .8rem 0 0; font-size: .9rem; display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .82rem; margin-top: .2rem; }
svg { width: 100%; height: auto; display: block; font-family: system-ui, sans-serif; }
.pair { display: grid; gap: 1.5rem 2rem; grid-template-columns: repeat(2, minmax(0, 1fr));
  align-items: start; }
.plots { display: grid; gap: 1.2rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.plots figure, .pair figure, .forest { max-width: 35rem; } .charts { margin-top: 1.4rem; }
.charts + .scroll { margin-top: 1.4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap;
  font-size: .85rem; min-width: 100%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  vertical-align: baseline; }
th { font-weight: 600; color: var(--soft); vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child, .words { text-align: left; }
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; }
td details { font-size: .92em; } td summary { color: var(--soft); }
.chance td, .chance td a { color: var(--soft); }
.folded td { white-space: normal; color: var(--soft); text-align: left; }
.interval { color: var(--soft); }
th button { all: unset; cursor: pointer; } th button:hover { color: var(--mark); }
th button:focus-visible { outline: 2px solid var(--mark); }
th[aria-sort=descending] button::after { content: " \\2193"; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
.bar { position: relative; display: inline-block; width: 6.5rem; height: .8em; margin-right: .5rem;
  vertical-align: -.05em; border-right: 1px solid var(--line);
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.bar i { position: absolute; top: 0; bottom: 0; }
.bar .value { background: var(--mark); opacity: .75; }
.bar .range { top: 45%; bottom: 45%; background: var(--ink); }
.bar .half { width: 0; border-left: 1px dashed var(--soft); top: -.25em;
  bottom: -.25em; }
.chance .bar .value { background: var(--soft); opacity: .5; }
.answer { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .8rem;
  margin: 0 0 .7rem; break-inside: avoid; }
.facts { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem .9rem;
  margin: 0; overflow-wrap: anywhere; }
dt { color: var(--soft); font-size: .85rem; padding-top: .1rem; } dd { margin: 0; }
dd p { margin: 0; max-width: none; white-space: pre-wrap; overflow-wrap: anywhere; }
.answer .said { font-weight: 600; }
.wrong .said { color: var(--wrong); } .right .said { color: var(--right); }
.answer .value { font-size: .85rem; color: var(--soft); margin: .4rem 0 0; max-width: none; }
summary { cursor: pointer; overflow-wrap: anywhere; }
details.text > summary { list-style: none; }
details.text > summary::-webkit-details-marker { display: none; }
details.text[open] > summary .start { display: none; }
details.text:not([open]) > summary .less { display: none; }
.more { color: var(--mark); font-weight: 400; font-size: .85rem; }
details.method, details.part { border-top: 1px solid var(--line); padding: .45rem 0; }
details.method > summary, details.part > summary { font-weight: 600; }
details.method > summary .soft { font-weight: 400; font-variant-numeric: tabular-nums; }
.body { padding: .3rem 0 1rem; scroll-margin-top: 4rem; }
ul { padding-left: 1.2rem; max-width: 80ch; overflow-wrap: anywhere; } li { margin: .2rem 0; }
@media screen and (max-width: 50rem) {
  .pair { grid-template-columns: minmax(0, 1fr); }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; } .facts dd { margin-bottom: .5rem; }
  .answer .facts { grid-template-columns: 4.4rem minmax(0, 1fr); gap: .1rem .4rem; }
  .answer .facts dd { margin: 0; }
  td:first-child { min-width: 8rem; max-width: 10rem; } .bar { width: 4rem; }
  th, td { padding: .3rem .4rem; }
}
@media print {
  @page { size: A4; margin: 14mm; }
  html { font-size: 9.5pt; } body { font-size: 9.5pt; padding: 0; max-width: none; }
  nav, .others, details:not([open]), .more, .methods:not(:has(details[open])) { display: none; }
  details.text[open] > summary { display: none; } .map { width: auto !important; }
  h2, h3 { break-after: avoid; } figure, tr, .warning { break-inside: avoid; }
  .scroll { overflow: visible; } table { font-size: 7.2pt; } th, td { padding: .15rem .3rem; }
  td:first-child { min-width: 0; } .bar { width: 3.2rem; margin-right: .2rem; }
  .pair { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .8rem; }
  .answer { font-size: 8.5pt; padding: .4rem .6rem; }
  a { text-decoration: none; }
}
"""

SCRIPT: Final = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.querySelector("button")?.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[place].dataset.value;
    const order = (left, right) => {
      const [a, b] = [key(left), key(right)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const difference = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
      return down ? -difference : difference;
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
  }));
}
const reveal = () => {
  const name = decodeURIComponent(location.hash.slice(1));
  const target = name && document.getElementById(name);
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.scrollIntoView();
};
addEventListener("hashchange", reveal);
reveal();
"""

"use strict";
// A number where the text begins with one, after a sign of approximation; infinity is the largest.
function value(text) {
  const start = text.trim().replace(/^≈ ?/, "").replace(/^∞/, "Infinity");
  return /^[+-]?(\d|Infinity)/.test(start) ? parseFloat(start) : NaN;
}
function compare(a, b, numeric) {
  return numeric ? value(a) - value(b) : a.localeCompare(b);
}
// What is missing comes last in both directions.
function sort(table, column, descending, numeric) {
  const text = row => row.cells[column].textContent;
  const missing = row => numeric && Number.isNaN(value(text(row)));
  const rows = Array.from(table.tBodies[0].rows);
  rows.sort((a, b) => missing(a) - missing(b)
    || (missing(a) ? 0 : compare(text(a), text(b), numeric) * (descending ? -1 : 1)) || 0);
  table.tBodies[0].append(...rows);
}
function sortable(table) {
  const headers = Array.from(table.tHead.rows[0].cells);
  headers.forEach((header, column) => header.querySelector("button").addEventListener("click", () => {
    const numeric = header.classList.contains("number");
    const now = header.getAttribute("aria-sort");
    const descending = now ? now === "ascending" : numeric;
    headers.forEach(other => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", descending ? "descending" : "ascending");
    sort(table, column, descending, numeric);
  }));
}
// Columns of names stay beside each other where the table is scrolled.
function stick(table) {
  let left = 0;
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    if (!header.classList.contains("name")) return;
    for (const row of table.rows) row.cells[column].style.setProperty("--left", left + "px");
    left += header.offsetWidth;
  });
}
function show(table, column, shown) {
  for (const row of table.rows) row.cells[column].hidden = !shown;
  stick(table);
}
// What opens to a box for each of the things that can be hidden: {name, shown, set(shown)}.
function chooser(title, of, things) {
  const found = document.createElement("details"), summary = document.createElement("summary");
  const group = document.createElement("fieldset"), legend = document.createElement("legend");
  legend.textContent = title + " of “" + of + "”";
  group.append(legend);
  const boxes = things.map(thing => {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = thing.shown;
    label.append(box, " " + thing.name);
    group.append(label);
    thing.set(box.checked);
    box.addEventListener("change", () => { thing.set(box.checked); count(); });
    return box;
  });
  const count = () => {
    const hidden = boxes.filter(box => !box.checked).length;
    summary.textContent = title + (hidden ? " (" + hidden + " more)" : "");
  };
  const all = document.createElement("button");
  all.type = "button";
  all.textContent = "All";
  all.addEventListener("click", () => boxes.filter(box => !box.checked).forEach(box => box.click()));
  group.append(all);
  found.append(summary, group);
  count();
  return found;
}
// Columns that are "extra" are hidden at first.
function choosable(table) {
  const headers = Array.from(table.tHead.rows[0].cells);
  if (!headers.some(header => header.hasAttribute("data-extra"))) return;
  const columns = headers.map((header, column) => ({
    name: header.textContent.trim(),
    shown: !header.hasAttribute("data-extra"),
    set: shown => show(table, column, shown),
    fixed: header.classList.contains("name"),
  })).filter(column => !column.fixed);
  const chosen = chooser("Columns", table.caption.textContent, columns);
  table.closest(".table").querySelector(".tools").prepend(chosen);
}
// A figure can be saved, and its lines can be hidden.
function drawn(figure) {
  const svg = figure.querySelector("svg");
  if (!svg) return;
  const tools = document.createElement("div"), save = document.createElement("a");
  tools.className = "tools";
  const parts = Array.from(svg.querySelectorAll("[data-line]"));
  const names = Array.from(new Set(parts.map(part => part.dataset.line)));
  const lines = names.map(name => ({
    name: name.replace(/\s+/g, " "),
    shown: true,
    set: shown => parts.filter(part => part.dataset.line === name)
      .forEach(part => { part.style.display = shown ? "" : "none"; }),
  }));
  const caption = figure.querySelector("figcaption").textContent;
  if (lines.length > 1) tools.append(chooser("Lines", caption, lines));
  save.download = save.textContent = figure.dataset.name + ".svg";
  save.href = "#";
  save.addEventListener("click", () => {
    const file = new Blob([new XMLSerializer().serializeToString(svg)], {type: "image/svg+xml"});
    save.href = URL.createObjectURL(file);
  });
  tools.append(save);
  figure.prepend(tools);
}
const tables = Array.from(document.querySelectorAll("table"));
tables.forEach(table => { sortable(table); choosable(table); stick(table); });
document.querySelectorAll("figure").forEach(drawn);
// What is folded has no width until it is open.
addEventListener("toggle", () => tables.forEach(stick), true);
addEventListener("resize", () => tables.forEach(stick));
// A link to a folded section opens it.
function unfold() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", unfold);
unfold();

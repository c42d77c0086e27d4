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
// A box for each column that can be hidden; those that are "extra" are so at first.
function choosable(table) {
  const headers = Array.from(table.tHead.rows[0].cells);
  if (!headers.some(header => header.hasAttribute("data-extra"))) return;
  const chooser = document.createElement("details"), summary = document.createElement("summary");
  const group = document.createElement("fieldset"), legend = document.createElement("legend");
  legend.textContent = "Columns of “" + table.caption.textContent + "”";
  group.append(legend);
  const boxes = [];
  const count = () => {
    const hidden = headers.filter(header => header.hidden).length;
    summary.textContent = "Columns" + (hidden ? " (" + hidden + " more)" : "");
  };
  headers.forEach((header, column) => {
    if (header.classList.contains("name")) return;
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = !header.hasAttribute("data-extra");
    box.addEventListener("change", () => { show(table, column, box.checked); count(); });
    label.append(box, " " + header.textContent.trim());
    group.append(label);
    boxes.push(box);
    show(table, column, box.checked);
  });
  const all = document.createElement("button");
  all.type = "button";
  all.textContent = "All";
  all.addEventListener("click", () => boxes.filter(box => !box.checked).forEach(box => box.click()));
  group.append(all);
  chooser.append(summary, group);
  count();
  table.closest(".table").querySelector(".tools").prepend(chooser);
}
const tables = Array.from(document.querySelectorAll("table"));
tables.forEach(table => { sortable(table); choosable(table); stick(table); });
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

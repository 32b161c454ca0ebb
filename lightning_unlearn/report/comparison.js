"use strict";
// Makes the columns of the tables sortable; without this script they stay the tables that they are.
const content = (row, place) => row.cells[place].dataset.value ?? row.cells[place].textContent.trim();

function compare(one, other) {
  return isNaN(one) || isNaN(other) ? one.localeCompare(other, undefined, { numeric: true }) : one - other;
}

function sort(head) {
  const body = head.closest("table").lastElementChild; // the runs; the models that they are compared with stay above
  const place = head.cellIndex;
  const turn = { ascending: "descending", descending: "ascending" };
  const order = turn[head.ariaSort] ?? (head.dataset.aim === "higher" ? "descending" : "ascending"); // the best first
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.ariaSort = order;
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...body.rows].sort((a, b) => {
    const [one, other] = [content(a, place), content(b, place)];
    return (one === "") - (other === "") || sign * compare(one, other); // what is missing stays below
  });
  body.append(...rows);
}

for (const head of document.querySelectorAll("table.sortable thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  button.addEventListener("click", () => sort(head));
  head.append(button);
}
document.getElementById("sorting").hidden = false;

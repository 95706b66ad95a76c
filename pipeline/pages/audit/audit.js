// Sorts and searches the table of the worst pairs; everything else of the page works without script.
const table = document.getElementById("worst-table");

function valueOf(row, column, kind) {
  const cell = row.cells[column];
  return kind === "number" ? Number(cell.dataset.value) : cell.textContent.trim().toLowerCase();
}

function sortBy(heading) {
  const column = heading.cellIndex, kind = heading.dataset.kind;
  const descending = heading.ariaSort ? heading.ariaSort === "ascending" : kind === "number";
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.ariaSort = descending ? "descending" : "ascending";
  const keyed = [...table.tBodies[0].rows].map((row) => [valueOf(row, column, kind), row]);
  keyed.sort(([a], [b]) => (kind === "number" ? a - b : a.localeCompare(b)) * (descending ? -1 : 1));
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

function show(words, texts) {
  let count = 0;
  for (const [row, text] of texts) {
    row.hidden = !words.every((word) => text.includes(word));
    count += !row.hidden;
  }
  document.getElementById("matches").textContent = words.length ? `${count} of ${texts.size}` : "";
}

if (table) {
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sortBy(heading));
    heading.append(button);
  }
  const search = document.getElementById("search");
  const texts = new Map([...table.tBodies[0].rows].map((row) => [row, row.textContent.toLowerCase()]));
  search.addEventListener("input", () => show(search.value.toLowerCase().split(/\s+/).filter(Boolean), texts));
  search.parentElement.hidden = false;
}

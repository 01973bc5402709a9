"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const make = (kind, text, parent) => {
  const node = document.createElement(kind);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
};

// Numbers sort as numbers whatever their unit; everything else as text.
const SCALE = { KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, ms: 1e-3 };
const sortKey = (text) => {
  const found = /^([+-]?[\d,]*\.?\d+(?:e[+-]?\d+)?)\s*([A-Za-z]*)/.exec(text);
  return found ? Number(found[1].replaceAll(",", "")) * (SCALE[found[2]] ?? 1) : text;
};
const compare = (a, b) => {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
};

function sortBy(table, head, column) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(sortKey(a.cells[column].textContent), sortKey(b.cells[column].textContent)) * (down ? -1 : 1));
  table.tBodies[0].append(...rows);
}

function showTable(one) {
  const part = $("tables");
  make("h2", one.title, part).id = `table-${one.name}`;
  const wide = make("div", undefined, part);
  wide.className = "wide";
  const table = make("table", undefined, wide);
  const top = table.createTHead().insertRow();
  one.header.forEach((name, column) => {
    const head = make("th", name, top);
    head.onclick = () => sortBy(table, head, column);
  });
  const body = table.createTBody();
  for (const row of one.rows) {
    const line = body.insertRow();
    for (const parts of row) {
      const field = line.insertCell();
      parts.forEach(([text, cells], k) => {
        if (k) field.append("; ");
        if (!data.cells[cells[0]]) return field.append(text);
        const link = make("a", text, field);
        link.href = "#transcripts";
        link.onclick = () => open(cells);
      });
    }
  }
  for (const note of one.notes) make("p", note, part).className = "note";
}

$("filter").oninput = (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll("#tables tbody tr")) row.hidden = !row.textContent.toLowerCase().includes(wanted);
};

for (const figure of data.figures) {
  const node = make("figure", undefined, $("figures"));
  node.innerHTML = figure.svg; // our own file
  make("figcaption", `${figure.name}. ${figure.caption} ${figure.gaps.join(" ")}`, node);
}

// Words that a longest common subsequence with the first column leaves out are marked.
function differing(reference, words) {
  const n = reference.length, m = words.length;
  const best = Array.from({ length: n + 1 }, () => new Uint16Array(m + 1));
  for (let i = n - 1; i >= 0; i--)
    for (let j = m - 1; j >= 0; j--)
      best[i][j] = reference[i] === words[j] ? best[i + 1][j + 1] + 1 : Math.max(best[i + 1][j], best[i][j + 1]);
  const marked = new Array(m).fill(true);
  for (let i = 0, j = 0; i < n && j < m; ) {
    if (reference[i] === words[j]) { marked[j] = false; i++; j++; }
    else if (best[i + 1][j] >= best[i][j + 1]) i++;
    else j++;
  }
  return marked;
}
const split = (text) => text.match(/\s+|[^\s]+/g) ?? [];

function showTurn(field, said, reference) {
  const pieces = split(said), words = pieces.filter((piece) => piece.trim());
  const marked = reference === null ? [] : differing(split(reference).filter((piece) => piece.trim()), words);
  let at = 0;
  for (const piece of pieces) {
    if (piece.trim() && marked[at++]) make("mark", piece, field);
    else field.append(piece);
  }
}

function showProblem() {
  const study = $("study").value, problem = $("problem").value;
  const chosen = [...$("cells").selectedOptions].map((option) => option.value).sort((a, b) => place(a) - place(b));
  const shown = chosen.map((cell) => [cell, (data.samples[study] ?? {})[problem]?.[cell]]).filter(([, sample]) => sample);
  $("hops").replaceChildren();
  const silent = chosen.filter((cell) => !shown.some(([other]) => other === cell)).map((cell) => data.cells[cell].label);
  const none = silent.length ? `; no transcript of it: ${silent.join(", ")}` : "";
  $("asked").textContent = (shown.length ? `gold ${shown[0][1].gold}` : "no cell of this study holds this problem") + none;
  if (!shown.length) return;
  const wide = make("div", undefined, $("hops"));
  wide.className = "wide";
  const table = make("table", undefined, wide);
  const top = table.createTHead().insertRow();
  make("th", "turn", top);
  for (const [cell, sample] of shown) {
    const { label, folder } = data.cells[cell];
    const head = make("th", `${label} (${folder}): ${sample.prediction ?? "no answer"}`, top);
    head.className = sample.correct ? "right" : "wrong";
  }
  const body = table.createTBody();
  const turns = Math.max(...shown.map(([, sample]) => sample.turns.length));
  for (let k = 0; k < turns; k++) {
    const line = body.insertRow();
    line.insertCell().textContent = shown[0][1].turns[k]?.role ?? "";
    shown.forEach(([, sample], column) => {
      const turn = sample.turns[k], field = line.insertCell();
      if (!turn) return;
      field.title = `${turn.cached_tokens} cached, ${turn.prefilled_tokens} prefilled, ${turn.generated_tokens} generated`;
      showTurn(field, turn.said || `(${turn.latent_steps} latent steps)`, column ? shown[0][1].turns[k]?.said ?? "" : null);
    });
  }
}

const options = (node, values) => node.replaceChildren(...values.map(([value, text]) => new Option(text, value)));

function showStudy() {
  const study = $("study").value;
  options($("problem"), Object.keys(data.samples[study] ?? {}).map((id) => [id, id]));
  const cells = Object.entries(data.cells).filter(([, cell]) => cell.study === study);
  options($("cells"), cells.map(([hash, cell]) => [hash, `${cell.label} (${cell.folder})`]));
  for (const option of [...$("cells").options].slice(0, 4)) option.selected = true;
  showProblem();
}

// The cells that were opened come first, then raw hand-offs.
let leads = [];
const place = (cell) => (leads.includes(cell) ? leads.indexOf(cell) - leads.length : data.cells[cell].label === "raw" ? 1 : 2);

// A number's cell beside those that it is held against, of the same training, and the others of its setting.
function open(sources) {
  const [cell] = sources, wanted = data.cells[cell];
  $("study").value = wanted.study;
  showStudy();
  const problems = data.samples[wanted.study] ?? {};
  $("problem").value = Object.keys(problems).find((id) => problems[id][cell]) ?? $("problem").value;
  const same = (other, key) => data.cells[other][key] === wanted[key] || (key === "budget_bits" && data.cells[other][key] === null);
  const alike = (other) => ["chain", "question", "variant", "model", "receiver", "level", "context", "budget_bits"].every((key) => same(other, key));
  const { study, variant } = wanted;
  leads = sources.filter((other) => data.cells[other]?.study === study && data.cells[other].variant === variant).slice(0, 4);
  const others = [...$("cells").options].map((option) => option.value).filter((other) => !leads.includes(other) && alike(other));
  const beside = new Set([...leads, ...others.sort((a, b) => place(a) - place(b))].slice(0, 4));
  for (const option of $("cells").options) option.selected = beside.has(option.value);
  $("cells").selectedOptions[0]?.scrollIntoView({ block: "nearest" });
  showProblem();
}

data.tables.forEach(showTable);
options($("study"), Object.keys(data.samples).map((name) => [name, name]));
$("study").onchange = showStudy;
$("problem").onchange = $("cells").onchange = showProblem;
showStudy();

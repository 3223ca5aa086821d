// The page: the filter, the totals, and drawing everything again when something has changed.
function drawTotals() {
  const tasks = state.tasks;
  const failures = new Set(["failed", "killed", "timeout", "lost"]);
  const counted = tasks.filter((task) => efficiency(task) !== null);
  const had = sum(counted, (task) => wall(task) * column.cores_available[task]);
  const queued = sum(tasks, (task) => column.queue[task]);
  const totals = [
    ["Tasks", String(tasks.length)],
    ["Failed", String(tasks.filter((task) => failures.has(nameOf("status", task))).length)],
    ["CPU time", duration(sum(tasks, cpu))],
    ["Wall time", duration(sum(tasks, wall))],
    ["In queues", duration(queued)],
    ["Efficiency", percent(had ? sum(counted, cpu) / had : null)],
  ];
  byId("totals").replaceChildren(...totals.map(([name, figure]) => {
    const tile = html("div");
    tile.append(html("dt", {}, name), html("dd", {}, figure));
    return tile;
  }));
}

function drawAll() {
  byId("nothing").hidden = state.tasks.length > 0;
  drawTotals();
  drawTimeline();
  drawPhases();
  drawScatter();
  drawSpread();
  drawTable();
}

function applyFilter() {
  const fields = ["text", "function", "host", "status"];
  state.tasks = fitting(Object.fromEntries(fields.map((field) => [field, byId(field).value])));
  if (!state.tasks.includes(state.picked)) state.picked = null;
  order.page = 0;
  squeeze(state.tasks);
  drawAll();
}

function pick(task) {
  state.picked = state.picked === task ? null : task;
  hideTip();
  drawTimeline();
  drawPhases();
  for (const row of document.querySelectorAll("#tasks tbody tr")) row.classList.toggle("picked", Number(row.dataset.task) === state.picked);
}

function fill(select, field, all) {
  select.append(html("option", { value: "" }, all));
  const names = data.names[field].map((name, number) => [name ?? "-", number]);
  names.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
  for (const [name, number] of names) select.append(html("option", { value: number }, name));
}

function later(action, milliseconds) {
  let timer = null;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
}

fill(byId("function"), "function", "All functions");
fill(byId("host"), "host", "All machines");
fill(byId("status"), "status", "Every status");
byId("about").textContent = data.about;
byId("filter").addEventListener("submit", (event) => event.preventDefault());
byId("text").addEventListener("input", later(applyFilter, 120));
for (const field of ["function", "host", "status"]) byId(field).addEventListener("change", applyFilter);
byId("filter").addEventListener("reset", () => setTimeout(applyFilter));
for (const [button, step] of [["previous", -1], ["next", 1]]) {
  byId(button).addEventListener("click", () => { order.page += step; drawTable(); });
}
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.addEventListener("click", () => zoomTo(...zooms[button.dataset.zoom](view.to - view.from)));
}
let wide = window.innerWidth;
window.addEventListener("resize", later(() => {
  if (window.innerWidth === wide) return; // a phone's bars come and go without any change in width
  wide = window.innerWidth;
  drawTimeline();
  drawScatter();
  drawSpread();
}, 150));
drawHead();
applyFilter();

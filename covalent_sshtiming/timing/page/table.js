// The table: a page of tasks, sorted by a column.
const pageSize = 50;
const order = { by: "begin", down: true, page: 0 };
const columns = [
  { field: "begin", head: "when (UTC)", value: (task) => column.begin[task], text: (task) => moment(column.begin[task]) },
  { field: "function", head: "function", value: (task) => nameOf("function", task) },
  { field: "host", head: "machine", value: (task) => nameOf("host", task) },
  { field: "status", head: "status", value: (task) => nameOf("status", task) },
  { field: "cpu_s", head: "CPU", figure: true, value: cpu, text: (task) => duration(cpu(task)) },
  { field: "wall_s", head: "wall", figure: true, value: wall, text: (task) => duration(wall(task)) },
  { field: "efficiency", head: "efficiency", figure: true, value: efficiency, text: (task) => percent(efficiency(task)) },
  { field: "queue", head: "queued", figure: true, value: (task) => column.queue[task], text: (task) => duration(column.queue[task]) },
  { field: "rss_peak_bytes", head: "peak", figure: true, value: (task) => column.rss_peak_bytes[task], text: (task) => size(column.rss_peak_bytes[task]) },
  { field: "dispatch_id", head: "dispatch", value: (task) => nameOf("dispatch_id", task), text: (task) => nameOf("dispatch_id", task).slice(0, 8) },
  { field: "node_id", head: "node", figure: true, value: (task) => column.node_id[task] },
  { field: "record_id", head: "id", value: (task) => column.record_id[task], text: (task) => (column.record_id[task] ?? "-").slice(0, 8) },
];

// What is not known comes last, whichever way one sorts.
function sorted(tasks) {
  const { value } = columns.find(({ field }) => field === order.by);
  const way = order.down ? -1 : 1;
  const keyed = tasks.map((task) => [value(task), task]);
  keyed.sort(([a, first], [b, second]) => {
    if (a === null || b === null) return (a === null) - (b === null) || first - second;
    if (typeof a === "string") return way * (a < b ? -1 : a > b ? 1 : 0) || first - second;
    return way * (a - b) || first - second;
  });
  return keyed.map(([, task]) => task);
}

function drawHead() {
  const row = html("tr");
  for (const { field, head, figure } of columns) {
    const cell = html("th", { scope: "col", class: figure ? "figure" : "", "data-field": field });
    const button = html("button", { type: "button" }, head);
    button.addEventListener("click", () => {
      order.down = order.by === field ? !order.down : Boolean(figure) || field === "begin";
      order.by = field;
      order.page = 0;
      drawTable();
    });
    cell.append(button);
    row.append(cell);
  }
  document.querySelector("#tasks thead").replaceChildren(row);
}

function drawTable() {
  for (const cell of document.querySelectorAll("#tasks th")) {
    if (cell.dataset.field === order.by) cell.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  const pages = Math.max(1, Math.ceil(state.tasks.length / pageSize));
  order.page = Math.min(order.page, pages - 1);
  const shown = sorted(state.tasks).slice(order.page * pageSize, (order.page + 1) * pageSize);
  document.querySelector("#tasks tbody").replaceChildren(...shown.map(tableRow));
  byId("page").textContent = `${order.page + 1} of ${pages}`;
  byId("previous").disabled = order.page === 0;
  byId("next").disabled = order.page === pages - 1;
}

function tableRow(task) {
  const row = html("tr", { "data-task": task, class: task === state.picked ? "picked" : "" });
  for (const { field, figure, value, text } of columns) {
    const failed = field === "status" && !completed(task);
    const words = text ? text(task) : String(value(task) ?? "-");
    row.append(html("td", { class: `${figure ? "figure" : ""}${failed ? " failed" : ""}`, title: words }, words));
  }
  row.addEventListener("click", () => pick(task));
  return row;
}

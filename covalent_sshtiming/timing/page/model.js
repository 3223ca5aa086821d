// The tasks, which of them are to be seen, and figures as words. Whatever a task says of itself is text:
// nothing of it ever becomes markup.
const data = JSON.parse(document.getElementById("data").textContent);
const column = data.columns;
const phases = data.phases;
const kinds = { connect: "transfer", upload: "transfer", queue: "queue", download: "transfer", fetch: "transfer" };
const total = column.function.length;

const byId = (id) => document.getElementById(id);
const nameOf = (field, task) => data.names[field][column[field][task]] ?? "-";
// Sentences do not say how a task has ended: it counts as completed, as in `stats`.
const completed = (task) => ["completed", null].includes(data.names.status[column.status[task]]);
const cpu = (task) => column.cpu_s[task];
const wall = (task) => column.wall_s[task];

// A task's phases by time: [name, begin, end], in seconds since the log's begin; none without a time.
function spans(task) {
  let at = column.begin[task];
  const found = [];
  if (at === null) return found;
  for (const phase of phases) {
    const length = column[phase][task];
    if (length !== null && length > 0) {
      found.push([phase, at, at + length]);
      at += length;
    }
  }
  return found;
}

// When each task begins and ends, reckoned once; a task without times or phases has none.
const begins = new Float64Array(total).fill(NaN);
const ends = new Float64Array(total).fill(NaN);
for (let task = 0; task < total; task++) {
  const found = spans(task);
  if (found.length) {
    begins[task] = found[0][1];
    ends[task] = found[found.length - 1][2];
  }
}

function efficiency(task) {
  const had = wall(task) * column.cores_available[task];
  return cpu(task) === null || !had ? null : cpu(task) / had;
}

// The sum of what is known; null where nothing is.
function sum(tasks, value) {
  let all = null;
  for (const task of tasks) {
    const part = value(task);
    if (part !== null) all += part;
  }
  return all;
}

const inWords = (tasks) => (tasks.length === 1 ? "1 task" : `${tasks.length} tasks`);

function quantile(sorted, part) {
  const place = (sorted.length - 1) * part;
  const low = Math.floor(place);
  const next = sorted[Math.min(low + 1, sorted.length - 1)];
  return sorted[low] + (next - sorted[low]) * (place - low);
}

function duration(seconds) {
  if (seconds === null || Number.isNaN(seconds)) return "-";
  if (seconds < 1e-9) return "0 s";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(1)} ms`;
  if (seconds < 120) return `${seconds.toFixed(2)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(1)} min`;
  if (seconds < 172800) return `${(seconds / 3600).toFixed(1)} h`;
  return `${(seconds / 86400).toFixed(1)} d`;
}

function size(bytes) {
  if (bytes === null) return "-";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < 4; unit++) bytes /= 1024;
  return `${bytes >= 100 || unit === 0 ? bytes.toFixed(0) : bytes.toFixed(1)} ${units[unit]}`;
}

const percent = (part) => (part === null ? "-" : `${(100 * part).toFixed(part < 0.1 ? 1 : 0)}%`);
const moment = (seconds) =>
  seconds === null || Number.isNaN(seconds)
    ? "-"
    : new Date((data.begin + seconds) * 1000).toISOString().slice(0, 19).replace("T", " ");

// What is to be seen: the tasks that fit the filter, and the one that was picked.
const state = { tasks: [], picked: null };

function fitting(filter) {
  const needle = filter.text.trim().toLowerCase();
  const found = [];
  for (let task = 0; task < total; task++) {
    if (filter.function !== "" && column.function[task] !== Number(filter.function)) continue;
    if (filter.host !== "" && column.host[task] !== Number(filter.host)) continue;
    if (filter.status !== "" && column.status[task] !== Number(filter.status)) continue;
    if (needle && !haystack(task).includes(needle)) continue;
    found.push(task);
  }
  return found;
}

function haystack(task) {
  const names = ["function", "host", "dispatch_id", "status"].map((field) => nameOf(field, task));
  return `${names.join(" ")} ${column.record_id[task] ?? ""}`.toLowerCase();
}

// The timeline: each machine's tasks in lanes, with transfer, queue and run told apart. All bars of a kind and
// machine are one path, so that ten thousand tasks are a handful of elements.
// Time in which nothing ran is squeezed to a dashed line, or a week would be a few needles in an empty picture.
const view = { from: 0, to: 1, whole: [0, 1] }; // in squeezed seconds
const linesApart = 16; // pixels, below which lines of one kind would hatch the picture
const laneHeights = { least: 1.5, most: 14, machine: 320 };
let busy = []; // [{from, to, at}]: when there was work, in seconds, and where that begins in squeezed ones
let laidOut = [];
let place = null;

function squeeze(tasks) {
  const known = tasks.filter((task) => !Number.isNaN(begins[task])).sort((a, b) => begins[a] - begins[b]);
  let all = 0;
  let end = -Infinity;
  for (const task of known) {
    all += Math.max(0, ends[task] - Math.max(end, begins[task]));
    end = Math.max(end, ends[task]);
  }
  const idle = Math.max(1, all * 0.02);
  busy = [];
  for (const task of known) {
    const last = busy[busy.length - 1];
    if (last && begins[task] - last.to <= idle) last.to = Math.max(last.to, ends[task]);
    else busy.push({ from: begins[task], to: ends[task] });
  }
  let at = 0;
  for (const part of busy) {
    part.at = at;
    at += part.to - part.from + idle / 2;
  }
  const length = busy.length ? at - idle / 2 : 1;
  const room = length * 0.01 || 0.5;
  view.whole = [-room, length + room];
  [view.from, view.to] = view.whole;
}

function squeezed(seconds) {
  let low = 0;
  for (let high = busy.length - 1; low < high;) {
    const middle = (low + high + 1) >> 1;
    if (busy[middle].from <= seconds) low = middle;
    else high = middle - 1;
  }
  return busy[low].at + seconds - busy[low].from;
}

// Put tasks that can be seen into the lowest lane that is free: [{host, lanes: [[task, ...], ...]}, ...].
function layOut(tasks) {
  const machines = new Map();
  if (!busy.length) return [];
  const seen = tasks.filter((task) => squeezed(ends[task]) >= view.from && squeezed(begins[task]) <= view.to);
  seen.sort((a, b) => begins[a] - begins[b]);
  for (const task of seen) {
    const host = nameOf("host", task);
    if (!machines.has(host)) machines.set(host, { host, lanes: [], ends: [] });
    const machine = machines.get(host);
    let lane = machine.ends.findIndex((end) => end <= begins[task]);
    if (lane < 0) lane = machine.lanes.push([]) - 1;
    machine.lanes[lane].push(task);
    machine.ends[lane] = ends[task];
  }
  return [...machines.values()].sort((a, b) => (a.host < b.host ? -1 : 1));
}

function drawTimeline() {
  laidOut = layOut(state.tasks);
  if (!laidOut.length) {
    const words = busy.length ? "No task in this stretch." : "No task with a known time.";
    byId("timeline").replaceChildren(html("p", { class: "words" }, words));
    return;
  }
  let height = 8;
  for (const machine of laidOut) {
    const { least, most, machine: whole } = laneHeights;
    machine.lane = Math.max(least, Math.min(most, whole / machine.lanes.length));
    machine.top = height + 18;
    height = machine.top + machine.lane * machine.lanes.length + 14;
  }
  height += 16;
  const [root, width] = canvas(byId("timeline"), height, `Timeline of ${inWords(state.tasks)}`);
  const scale = width / (view.to - view.from);
  place = (seconds) => (squeezed(seconds) - view.from) * scale;
  drawTimes(root, height, width, scale);
  for (const machine of laidOut) drawMachine(root, machine, width);
  drawPicked(root);
  root.append(svg("rect", { class: "brush", y: 0, height, width: 0 }));
  listen(root, width);
}

function drawTimes(root, height, width, scale) {
  let free = 0;
  let day = "";
  const last = { gap: -Infinity, tick: -Infinity };
  const line = (kind, x) => {
    if (x - last[kind] < linesApart) return;
    const dashes = kind === "gap" ? { "stroke-dasharray": "2 4" } : {};
    root.append(svg("path", { class: "grid", d: `M${x} 4V${height - 18}`, ...dashes }));
    last[kind] = x;
  };
  busy.forEach((part, number) => {
    const from = Math.max(part.from, part.from + view.from - part.at);
    const to = Math.min(part.to, part.from + view.to - part.at);
    if (from >= to) return;
    if (number > 0 && part.at > view.from) line("gap", one((part.at - view.from) * scale) - 2);
    const ticks = timeTicks(from, to, ((to - from) * scale) / 90);
    for (const [at, label, date] of ticks.length ? ticks : [timeTick(from, 60)]) {
      const x = one(place(at));
      const words = date === day ? label : `${date} ${label}`;
      const half = words.length * 3.4;
      const middle = Math.max(half, Math.min(x, width - half));
      if (ticks.length) line("tick", x);
      if (middle - half < free) continue;
      root.append(svg("text", { x: middle, y: height - 4, "text-anchor": "middle" }, words));
      free = middle + half + 10;
      day = date;
    }
  });
}

function drawMachine(root, machine, width) {
  const count = machine.lanes.reduce((all, lane) => all + lane.length, 0);
  const group = svg("g", { "data-host": machine.host, "data-tasks": count });
  group.append(svg("text", { class: "name", x: 0, y: machine.top - 5 }, `${cut(machine.host, width - 120)}, ${count}`));
  const paths = { transfer: [], queue: [], run: [], failed: [] };
  const thick = one(Math.max(1, machine.lane - (machine.lane > 4 ? 1 : 0)));
  machine.lanes.forEach((lane, number) => {
    const y = one(machine.top + number * machine.lane);
    for (const task of lane) for (const [kind, begin, end] of merged(task)) paths[kind].push(bar(begin, end, y, thick, width));
  });
  for (const [kind, bars] of Object.entries(paths)) {
    if (bars.length) group.append(svg("path", { class: kind, d: bars.join(""), "data-bars": bars.length }));
  }
  root.append(group);
}

// A task as transfer, queue, run and transfer: its neighbouring phases of one kind joined.
function merged(task) {
  const run = completed(task) ? "run" : "failed";
  const found = [];
  for (const [phase, begin, end] of spans(task)) {
    const kind = kinds[phase] ?? run;
    const last = found[found.length - 1];
    if (last && last[0] === kind) last[2] = end;
    else found.push([kind, begin, end]);
  }
  return found;
}

function bar(begin, end, y, thick, width) {
  const left = Math.max(-2, place(begin));
  const right = Math.min(width + 2, place(end));
  const long = one(Math.max(0.7, right - left));
  return `M${one(left)} ${y}h${long}v${thick}h${-long}z`;
}

function drawPicked(root) {
  const task = state.picked;
  for (const machine of laidOut) {
    const lane = machine.lanes.findIndex((tasks) => tasks.includes(task));
    if (lane < 0) continue;
    const x = place(begins[task]);
    root.append(svg("rect", {
      class: "picked", x: x - 1, y: machine.top + lane * machine.lane - 1,
      width: Math.max(4, place(ends[task]) - x + 2), height: machine.lane + 2,
    }));
  }
}

// The task below the pointer: the nearest in its lane, if it is within a few pixels.
function taskAt(x, y) {
  for (const machine of laidOut) {
    const lane = machine.lanes[Math.floor((y - machine.top) / machine.lane)];
    if (!lane || y < machine.top) continue;
    for (const task of lane) if (x >= place(begins[task]) - 2 && x <= place(ends[task]) + 2) return task;
  }
  return null;
}

function listen(root, width) {
  const brush = root.querySelector(".brush");
  let start = null;
  const spot = (event) => {
    const box = root.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * width, event.clientY - box.top];
  };
  root.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") start = spot(event)[0]; });
  root.addEventListener("pointermove", (event) => {
    const [x, y] = spot(event);
    if (start !== null) {
      brush.setAttribute("x", Math.min(start, x));
      brush.setAttribute("width", Math.abs(x - start));
      return;
    }
    const task = taskAt(x, y);
    if (task === null) hideTip();
    else showTip(event, described(task));
  });
  root.addEventListener("pointerup", (event) => {
    const [x] = spot(event);
    if (start !== null && Math.abs(x - start) > 6) {
      const ends = [start, x].sort((a, b) => a - b).map((at) => view.from + (at / width) * (view.to - view.from));
      start = null;
      zoomTo(ends[0], ends[1]);
      return;
    }
    start = null;
  });
  root.addEventListener("click", (event) => {
    const task = taskAt(...spot(event));
    if (task !== null) pick(task);
  });
  root.addEventListener("pointerleave", () => { hideTip(); start = null; brush.setAttribute("width", 0); });
}

function zoomTo(from, to) {
  if (to - from < 1e-4) return;
  [view.from, view.to] = [from, to];
  hideTip();
  drawTimeline();
}

const zooms = {
  in: (length) => [view.from + length / 4, view.to - length / 4],
  out: (length) => [view.from - length / 2, view.to + length / 2],
  back: (length) => [view.from - length / 2, view.to - length / 2],
  on: (length) => [view.from + length / 2, view.to + length / 2],
  all: () => view.whole,
};

// The other pictures: phases as a waterfall, CPU against wall time, the spread of each function.
const colours = 8;

// Functions by their CPU time; the first eight have a colour of their own.
function ranked(tasks) {
  const all = new Map();
  for (const task of tasks) all.set(column.function[task], (all.get(column.function[task]) ?? 0) + (cpu(task) ?? 0));
  return [...all.entries()].sort((a, b) => b[1] - a[1]).map(([name]) => name);
}

const functionName = (number) => data.names.function[number] ?? "-";

// The phases of the picked task, or the mean of each phase over all tasks that are seen.
function drawPhases() {
  const tasks = state.picked === null ? state.tasks : [state.picked];
  const title = state.picked === null
    ? `Phases, mean of ${inWords(tasks)}`
    : `Phases of ${nameOf("function", state.picked)} on ${nameOf("host", state.picked)}, ${nameOf("status", state.picked)}`;
  byId("phases-title").textContent = title;
  const lengths = phases.map((phase) => {
    const known = tasks.filter((task) => column[phase][task] !== null);
    return known.length ? sum(known, (task) => column[phase][task]) / known.length : null;
  });
  const whole = lengths.reduce((all, length) => all + (length ?? 0), 0);
  const rows = [];
  let before = 0;
  phases.forEach((phase, number) => {
    const length = lengths[number];
    if (length === null) return;
    const track = html("div", { class: "track" });
    const mark = html("div", { class: `bar ${kinds[phase] ?? "run"}`, "data-phase": phase });
    mark.style.left = `${whole ? Math.min(99.5, (100 * before) / whole) : 0}%`;
    mark.style.width = `${whole ? (100 * length) / whole : 0}%`;
    track.append(mark);
    rows.push(html("span", {}, phase), track, html("span", { class: "figure" }, duration(length)));
    rows.push(html("span", { class: "figure soft" }, percent(whole ? length / whole : 0)));
    before += length;
  });
  byId("phases").replaceChildren(...(rows.length ? rows : [html("span", { class: "none" }, "No phase is known.")]));
}

function drawScatter() {
  const tasks = state.tasks.filter((task) => cpu(task) > 0 && wall(task) > 0);
  const place = byId("scatter");
  const key = byId("scatter-key");
  if (!tasks.length) {
    place.replaceChildren();
    key.textContent = "No task with CPU and wall time.";
    return;
  }
  const height = 380;
  const [root, width] = canvas(place, height, `CPU against wall time of ${inWords(tasks)}`);
  const low = tasks.reduce((least, task) => Math.min(least, cpu(task), wall(task)), Infinity);
  const high = tasks.reduce((most, task) => Math.max(most, cpu(task), wall(task)), 0);
  const x = logScale(low, high, 62, width - 12, 56);
  const y = logScale(low, high, height - 40, 12, 24);
  for (const at of x.ticks) {
    root.append(svg("path", { class: "grid", d: `M${one(x.place(at))} 8V${height - 36}` }));
    root.append(svg("text", { x: one(x.place(at)), y: height - 20, "text-anchor": "middle" }, shortDuration(at)));
  }
  for (const at of y.ticks) {
    root.append(svg("path", { class: "grid", d: `M58 ${one(y.place(at))}H${width - 8}` }));
    root.append(svg("text", { x: 54, y: one(y.place(at)) + 4, "text-anchor": "end" }, shortDuration(at)));
  }
  root.append(svg("path", { class: "grid", "stroke-dasharray": "4 4", d: `M${one(x.place(x.low))} ${one(y.place(x.low))}L${one(x.place(x.high))} ${one(y.place(x.high))}` }));
  root.append(svg("text", { x: 68, y: 20 }, "CPU time"));
  root.append(svg("text", { x: width - 12, y: height - 4, "text-anchor": "end" }, "wall time; on the dashed line one core is busy"));
  const order = ranked(tasks);
  const dots = new Map();
  for (const task of tasks) {
    const rank = Math.min(order.indexOf(column.function[task]), colours);
    if (!dots.has(rank)) dots.set(rank, []);
    dots.get(rank).push(`M${one(x.place(wall(task)))} ${one(y.place(cpu(task)))}h0`);
  }
  key.replaceChildren();
  for (const [rank, path] of [...dots.entries()].sort((a, b) => a[0] - b[0])) {
    const colour = rank < colours ? `var(--c${rank})` : "var(--other)";
    const drawn = svg("path", { class: "dots", d: path.join(""), "data-dots": path.length });
    drawn.style.stroke = colour;
    root.append(drawn);
    const swatch = html("span", { class: "key" });
    swatch.style.background = colour;
    const name = html("span", { class: "keyed" });
    name.append(swatch, rank < colours ? functionName(order[rank]) : `${order.length - colours} others`);
    key.append(name, " ");
  }
  root.addEventListener("pointermove", (event) => {
    const box = root.getBoundingClientRect();
    const [px, py] = [((event.clientX - box.left) / box.width) * width, event.clientY - box.top];
    let best = null;
    let least = 64;
    for (const task of tasks) {
      const far = (x.place(wall(task)) - px) ** 2 + (y.place(cpu(task)) - py) ** 2;
      if (far < least) [best, least] = [task, far];
    }
    if (best === null) hideTip();
    else showTip(event, described(best));
    root.onclick = best === null ? null : () => pick(best);
  });
  root.addEventListener("pointerleave", hideTip);
}

function drawSpread() {
  const most = 24;
  const groups = new Map();
  for (const task of state.tasks) {
    if (!completed(task) || !(cpu(task) > 0)) continue;
    if (!groups.has(column.function[task])) groups.set(column.function[task], []);
    groups.get(column.function[task]).push(cpu(task));
  }
  const order = ranked(state.tasks).filter((name) => groups.has(name));
  const shown = order.slice(0, most);
  const place = byId("spread");
  if (!shown.length) {
    place.replaceChildren(html("p", { class: "words" }, "No completed task with CPU time."));
    return;
  }
  const row = 30;
  const height = shown.length * row + 40;
  const [root, width] = canvas(place, height, `CPU time of ${shown.length} functions`);
  const left = Math.min(220, width * 0.34);
  const values = shown.map((name) => groups.get(name).sort((a, b) => a - b));
  const low = Math.min(...values.map((sorted) => quantile(sorted, 0.05)));
  const high = Math.max(...values.map((sorted) => quantile(sorted, 0.95)));
  const x = logScale(low, high, left + 8, width - 16, 56);
  for (const at of x.ticks) {
    root.append(svg("path", { class: "grid", d: `M${one(x.place(at))} 4V${height - 34}` }));
    root.append(svg("text", { x: one(x.place(at)), y: height - 20, "text-anchor": "middle" }, shortDuration(at)));
  }
  shown.forEach((name, number) => {
    const middle = number * row + 18;
    const [p5, p25, p50, p75, p95] = [0.05, 0.25, 0.5, 0.75, 0.95].map((part) => quantile(values[number], part));
    const group = svg("g", { "data-function": functionName(name), "data-median": p50 });
    group.append(svg("text", { class: "name", x: left, y: middle + 4, "text-anchor": "end" }, cut(functionName(name), left)));
    group.append(svg("path", { class: "range", d: `M${one(x.place(p5))} ${middle}H${one(x.place(p95))}` }));
    const [from, to] = [one(x.place(p25)), one(x.place(p75))];
    group.append(svg("rect", { class: "half", x: from, y: middle - 8, width: Math.max(2, to - from), height: 16, rx: 2 }));
    group.append(svg("path", { class: "median", d: `M${one(x.place(p50))} ${middle - 8}v16` }));
    group.addEventListener("pointermove", (event) => showTip(event, [
      `${functionName(name)}, ${inWords(values[number])}`,
      `median ${duration(p50)}, middle half ${duration(p25)} to ${duration(p75)}`,
      `5% ${duration(p5)}, 95% ${duration(p95)}`,
    ].join("\n")));
    group.addEventListener("pointerleave", hideTip);
    root.append(group);
  });
  const rest = order.length - shown.length;
  root.append(svg("text", { x: width - 12, y: height - 4, "text-anchor": "end" }, rest > 0 ? `CPU time; ${rest} further functions are left out` : "CPU time"));
}

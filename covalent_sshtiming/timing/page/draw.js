// Drawing: SVG elements, scales and ticks, the tip beside the pointer.
function svg(name, attributes = {}, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

function html(name, attributes = {}, text = null) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
}

// A new drawing in place of the old one; as wide as its place.
function canvas(place, height, label) {
  const width = Math.max(240, place.clientWidth);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
  place.replaceChildren(root);
  return [root, width];
}

const one = (number) => Math.round(number * 10) / 10;

// Text cut to about so many pixels.
function cut(text, width) {
  const most = Math.max(3, Math.floor(width / 7));
  return text.length > most ? `${text.slice(0, most - 1)}…` : text;
}

const steps = [1e-3, 1e-2, 0.1, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400];

function timeTicks(from, to, most) {
  const wanted = (to - from) / most;
  let step = steps.find((size) => size >= wanted);
  if (!step) step = Math.ceil(wanted / 86400) * 86400;
  const first = Math.ceil((data.begin + from) / step) * step - data.begin;
  const ticks = [];
  for (let at = first; at <= to; at += step) ticks.push(timeTick(at, step));
  return ticks;
}

// A moment, its time of day as finely as the step needs it, and its date.
function timeTick(at, step) {
  const whole = new Date(Math.round((data.begin + at) * 1000)).toISOString();
  return [at, whole.slice(11, step >= 60 ? 16 : step >= 1 ? 19 : 23), whole.slice(5, 10)];
}

// A scale by powers of ten, which shows milliseconds and hours in one picture; labels are `apart` pixels at least.
function logScale(low, high, from, to, apart) {
  const wider = Math.max(0, 1 - Math.log10(high / low)) / 2; // a decade has ticks enough
  const [a, b] = [Math.log10(low) - wider, Math.log10(high) + wider];
  const decade = Math.abs(to - from) / (b - a);
  const place = (value) => from + ((Math.log10(value) - a) / (b - a)) * (to - from);
  let digits = [1];
  const step = Math.ceil(apart / decade);
  if (b - a < 3 && apart <= decade * Math.log10(2)) digits = [1, 2, 5];
  else if (b - a < 3 && apart <= decade * Math.log10(3)) digits = [1, 3];
  const ticks = [];
  for (let power = Math.floor(a); power <= b; power++) {
    if (power % step) continue;
    ticks.push(...digits.map((digit) => digit * 10 ** power).filter((at) => Math.log10(at) >= a && Math.log10(at) <= b));
  }
  return { place, ticks, low: 10 ** a, high: 10 ** b };
}

const shortDuration = (seconds) => duration(seconds).replace(/\.0+(?= )/, "");

const tip = byId("tip");
function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const { innerWidth, innerHeight } = window;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tip.offsetHeight - 8))}px`;
}
const hideTip = () => { tip.hidden = true; };

function described(task) {
  const lines = [
    `${nameOf("function", task)} on ${nameOf("host", task)}, ${nameOf("status", task)}`,
    `from ${moment(begins[task])}`,
    `CPU ${duration(cpu(task))}, wall ${duration(wall(task))}, efficiency ${percent(efficiency(task))}`,
  ];
  for (const [phase, begin, end] of spans(task)) if (end - begin > 0.02 * (ends[task] - begins[task])) lines.push(`${phase} ${duration(end - begin)}`);
  return lines.join("\n");
}

// Shared by the parts of the page: elements, times, curves and the play bar of a set of takes.

const ANGLES = ["yaw", "pitch", "roll"];

// Strings in `attributes` become attributes, functions become listeners, `text` becomes the content.
function make(tag, attributes = {}, ...children) {
  const node = tag === "svg" || tag === "path" || tag === "line" || tag === "text"
    ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") node.textContent = value;
    else if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

const ICONS = {
  play: "M5 3.5v13l11-6.5z",
  pause: "M5 3.5h3.6v13H5zM11.4 3.5H15v13h-3.6z",
  sound: "M3 7.5h3l4-3.5v12l-4-3.5H3zM12.3 7.2a4 4 0 0 1 0 5.6M14.6 5a7 7 0 0 1 0 10",
  mute: "M3 7.5h3l4-3.5v12l-4-3.5H3zM12.5 7.8l4.4 4.4M16.9 7.8l-4.4 4.4",
  more: "M4 6.5h8M4 10h8M4 13.5h5M14.5 11v6M11.5 14h6",
  down: "M10 3v9.5M6 9l4 4 4-4M4 16.5h12",
};

function icon(name) {
  const svg = make("svg", { viewBox: "0 0 20 20", class: `icon icon-${name}`, "aria-hidden": "true" });
  svg.append(make("path", { d: ICONS[name] }));
  return svg;
}

function setIcon(button, name, label) {
  button.querySelector("svg").replaceWith(icon(name));
  button.setAttribute("aria-label", label);
  button.title = label;
}

// Largest turn of all takes in tenths of a degree: the common scale of their curves.
function largestTurn(takes) {
  let largest = 80;
  for (const take of takes) for (const value of take.turn) largest = Math.max(largest, Math.abs(value));
  return largest * 1.08;
}

// Yaw, pitch and roll over time. `turn` is flat, three numbers a step; a click calls `seek(share)`.
function drawCurves(turn, limit, name, seek) {
  const width = 300, height = 76, steps = turn.length / 3;
  const x = (step) => (steps > 1 ? (step / (steps - 1)) * width : 0);
  const y = (value) => (0.5 - 0.5 * (value / limit)) * height;
  const range = ANGLES.map((angle, k) => {
    const values = turn.filter((_, i) => i % 3 === k).map((value) => value / 10);
    return `${angle} from ${Math.round(Math.min(...values))} to ${Math.round(Math.max(...values))} degrees`;
  });
  const svg = make("svg", {
    viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", class: "curves", role: "img",
    "aria-label": `Head movement of ${name}: ${range.join(", ")}`,
    click: (event) => {
      const box = svg.getBoundingClientRect();
      seek((event.clientX - box.left) / box.width);
    },
  });
  svg.append(make("line", { x1: 0, x2: width, y1: height / 2, y2: height / 2, class: "zero" }));
  ANGLES.forEach((angle, k) => {
    let d = "";
    for (let step = 0; step < steps; step++) d += `${step ? "L" : "M"}${x(step).toFixed(1)} ${y(turn[3 * step + k]).toFixed(1)}`;
    svg.append(make("path", { d, class: `curve ${angle}` }));
  });
  const head = make("line", { x1: 0, x2: 0, y1: 0, y2: height, class: "playhead" });
  svg.append(head);
  svg.moveTo = (share) => { head.setAttribute("x1", share * width); head.setAttribute("x2", share * width); };
  return svg;
}

function legend(limit) {
  return make("p", { class: "legend" },
    ...[["yaw", "turn"], ["pitch", "nod"], ["roll", "tilt"]].map(([angle, word]) =>
      make("span", { class: `key ${angle}`, text: `${angle} (${word})` })),
    make("span", { class: "scale", text: `all on one scale, ±${Math.round(limit / 10)}°` }));
}

// Play bar of a set of takes. `player` has play(), pause() and seek(seconds), and calls bar.show(seconds, isPlaying).
function playBar(seconds, player, extra) {
  const toggle = make("button", { type: "button", class: "round", click: () => (bar.playing ? player.pause() : player.play()) }, icon("play"));
  const slider = make("input", {
    type: "range", min: 0, max: seconds, step: 0.04, value: 0, "aria-label": "Position in all takes",
    input: () => player.seek(Number(slider.value)),
  });
  const time = make("span", { class: "time", text: `0:00 / ${clock(seconds)}` });
  const bar = make("div", { class: "playbar", role: "group", "aria-label": "Play all takes together" }, toggle, slider, time, extra);
  setIcon(toggle, "play", "Play all takes");
  bar.playing = false;
  bar.show = (now, playing) => {
    slider.value = now;
    slider.setAttribute("aria-valuetext", `${clock(now)} of ${clock(seconds)}`);
    time.textContent = `${clock(now)} / ${clock(seconds)}`;
    if (playing !== bar.playing) setIcon(toggle, playing ? "pause" : "play", playing ? "Pause all takes" : "Play all takes");
    bar.playing = playing;
  };
  return bar;
}

const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

// Scrolls a new part into view, and focuses its heading if the focused element is gone.
function reveal(heading) {
  requestAnimationFrame(() => {
    const top = heading.getBoundingClientRect().top;
    if (top < 0 || top > 0.6 * innerHeight) heading.scrollIntoView({ block: "start", behavior: calm ? "auto" : "smooth" });
    if (document.activeElement === document.body) heading.focus({ preventScroll: true });
  });
}

// Only one part of the page plays sound at a time.
const SOUNDS = "osmnet-sounds";
function claimSound(part) { document.dispatchEvent(new CustomEvent(SOUNDS, { detail: part })); }
function yieldSound(part, hush) { document.addEventListener(SOUNDS, (event) => { if (event.detail !== part) hush(); }); }

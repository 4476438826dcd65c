// Takes before they are rendered: a small moving head and curves each, drawn from the numbers of osmnet/serving/sketch.py.

const root = element.querySelector(".root");
const LIGHT = [-0.35, -0.5, -0.79];
let current = null; // the value on display; the animation of an older one stops
let hush = () => {};
yieldSound(root, () => hush());

// R = Rz(roll) Ry(-yaw) Rx(-pitch), as docs/conventions.md has it.
function rotation(yaw, pitch, roll) {
  const [cy, sy, cp, sp, cr, sr] = [Math.cos(yaw), -Math.sin(yaw), Math.cos(pitch), -Math.sin(pitch), Math.cos(roll), Math.sin(roll)];
  return [
    cr * cy, cr * sy * sp - sr * cp, cr * sy * cp + sr * sp,
    sr * cy, sr * sy * sp + cr * cp, sr * sy * cp - cr * sp,
    -sy, cy * sp, cy * cp,
  ];
}

// Linear interpolation between two steps of a flat list.
function between(list, size, step, k) {
  const low = Math.min(Math.floor(step), list.length / size - 1), high = Math.min(low + 1, list.length / size - 1);
  const part = step - low;
  return list[low * size + k] * (1 - part) + list[high * size + k] * part;
}

function shapeAt(face, step, lids, into) {
  const count = face.directions.length - 1;
  const amounts = face.directions.map((_, k) => (k < count ? between(face.weights, count, step, k) / 100 : lids));
  for (let i = 0; i < into.length; i++) {
    let value = face.rest[i];
    for (let k = 0; k <= count; k++) value += amounts[k] * face.directions[k][i];
    into[i] = value / 1000;
  }
}

function drawHead(canvas, face, take, step, shape) {
  const context = canvas.getContext("2d"), side = canvas.width;
  const style = getComputedStyle(canvas);
  const colour = (name) => style.getPropertyValue(name).trim();
  shapeAt(face, step, between(take.lids, 1, step, 0) / 100, shape);
  const [yaw, pitch, roll] = [0, 1, 2].map((k) => (between(take.turn, 3, step, k) / 10) * Math.PI / 180);
  const [tx, ty, tz] = [0, 1, 2].map((k) => between(take.shift, 3, step, k) / 1000);
  const r = rotation(yaw, pitch, roll);
  const scale = (side / 3) * 10 / (10 + Math.max(tz, -5));
  const place = (x, y, z) => [
    side / 2 + scale * (tx + r[0] * x + r[1] * y + r[2] * z), side * 0.47 + scale * (ty + r[3] * x + r[4] * y + r[5] * z),
    r[6] * x + r[7] * y + r[8] * z,
  ];
  const points = [];
  for (let i = 0; i < shape.length; i += 3) points.push(place(shape[i], shape[i + 1], shape[i + 2]));
  const loop = (indices) => {
    context.beginPath();
    indices.forEach((index, i) => context[i ? "lineTo" : "moveTo"](points[index][0], points[index][1]));
    context.closePath();
  };

  context.clearRect(0, 0, side, side);
  // Shoulders and neck stay where they are; the back of the head follows the face, further away from the eye.
  const [neckX, neckY] = place(0, 0.55, 0.45);
  context.fillStyle = colour("--bust");
  context.beginPath();
  context.moveTo(side * 0.08, side);
  context.bezierCurveTo(side * 0.12, side * 0.86, side * 0.3, side * 0.86, side * 0.4, side * 0.82);
  context.lineTo(neckX - scale * 0.42, neckY);
  context.lineTo(neckX + scale * 0.42, neckY);
  context.lineTo(side * 0.6, side * 0.82);
  context.bezierCurveTo(side * 0.7, side * 0.86, side * 0.88, side * 0.86, side * 0.92, side);
  context.fill();
  const crown = face.crown.map(([x, y, z]) => place(x, y, z));
  context.fillStyle = colour("--skull");
  context.beginPath();
  crown.forEach((p, i) => context[i ? "lineTo" : "moveTo"](p[0], p[1]));
  context.fill();

  const order = face.order;
  const depth = (t) => points[face.triangles[3 * t]][2] + points[face.triangles[3 * t + 1]][2] + points[face.triangles[3 * t + 2]][2];
  order.forEach((entry) => { entry.depth = depth(entry.triangle); });
  order.sort((a, b) => b.depth - a.depth);
  const dark = face.tones[0], bright = face.tones[1];
  // Light falls on vertices: what three of them share looks round where flat triangles would look cut.
  const normals = new Float32Array(shape.length);
  for (const { triangle, sign } of order) {
    const n = normal(points, face.triangles, triangle, scale);
    for (let k = 0; k < 9; k++) normals[3 * face.triangles[3 * triangle + Math.floor(k / 3)] + (k % 3)] += sign * n[k % 3];
  }
  for (const { triangle } of order) {
    const corners = [0, 1, 2].map((k) => face.triangles[3 * triangle + k]);
    const [a, b, c] = corners.map((index) => points[index]);
    const n = [0, 1, 2].map((k) => corners.reduce((sum, index) => sum + normals[3 * index + k], 0));
    const lit = Math.max(0, (n[0] * LIGHT[0] + n[1] * LIGHT[1] + n[2] * LIGHT[2]) / (Math.hypot(...n) || 1));
    const tone = dark.map((value, k) => Math.round(value + (bright[k] - value) * lit));
    context.fillStyle = context.strokeStyle = `rgb(${tone})`;
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(a[0], a[1]); context.lineTo(b[0], b[1]); context.lineTo(c[0], c[1]); context.closePath();
    context.fill(); context.stroke(); // the stroke closes the seams
  }
  for (const [name, iris] of [["right_eye", 468], ["left_eye", 473]]) {
    context.save();
    loop(face.loops[name]);
    context.fillStyle = colour("--eye");
    context.fill();
    context.clip();
    const size = Math.hypot(points[iris][0] - points[iris + 1][0], points[iris][1] - points[iris + 1][1]);
    context.beginPath();
    context.arc(points[iris][0], points[iris][1], size, 0, 7);
    context.fillStyle = colour("--iris");
    context.fill();
    context.restore();
  }
  context.fillStyle = colour("--brow");
  for (const name of ["right_brow", "left_brow"]) { loop(face.loops[name]); context.fill(); }
  loop(face.loops.lips);
  context.fillStyle = colour("--lips");
  context.fill();
  loop(face.loops.mouth);
  context.fillStyle = colour("--mouth");
  context.fill();
}

// Normal of a triangle; its length is twice the area.
function normal(points, triangles, triangle, scale) {
  const [a, b, c] = [0, 1, 2].map((k) => points[triangles[3 * triangle + k]]);
  const u = [(b[0] - a[0]) / scale, (b[1] - a[1]) / scale, b[2] - a[2]], v = [(c[0] - a[0]) / scale, (c[1] - a[1]) / scale, c[2] - a[2]];
  return [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
}

function rgb(style, name) {
  const hex = style.getPropertyValue(name).trim().slice(1);
  return [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16));
}

function prepare(face) {
  face.order = Array.from({ length: face.triangles.length / 3 }, (_, triangle) => ({ triangle, depth: 0, sign: 1 }));
  const rest = Array.from({ length: face.rest.length / 3 }, (_, i) => [0, 1, 2].map((k) => face.rest[3 * i + k] / 1000));
  for (const entry of face.order) entry.sign = normal(rest, face.triangles, entry.triangle, 1)[2] > 0 ? -1 : 1; // towards the eye
  const style = getComputedStyle(root);
  face.tones = [rgb(style, "--clay-dark"), rgb(style, "--clay-light")];
  // The outline of the face, a little larger, further back and rounder on top: the skull.
  const oval = face.loops.oval.map((i) => rest[i]);
  const middle = [0, 1, 2].map((k) => oval.reduce((sum, p) => sum + p[k], 0) / oval.length);
  const half = Math.max(...oval.map((p) => Math.abs(p[0] - middle[0])));
  face.crown = oval.map(([x, y, z]) => {
    const dome = 1 - ((x - middle[0]) / half) ** 2;
    const up = y < middle[1] ? 1.08 + 0.3 * dome : 1;
    return [middle[0] + (y < middle[1] ? 1.12 : 1.04) * (x - middle[0]), middle[1] + up * (y - middle[1]), z + 0.25];
  });
}

function show(value) {
  current = value;
  root.replaceChildren();
  if (!value) return;
  const { face, takes, fps, seconds } = value;
  prepare(face);
  const limit = largestTurn(takes), shape = new Float32Array(face.rest.length);
  const sound = value.speech ? new Audio(value.speech.url) : null;
  let playing = !calm, loud = false, began = performance.now(), at = 0;

  const player = {
    play() { playing = true; began = performance.now() - 1000 * at; if (loud) { claimSound(root); sound.currentTime = at; sound.play(); } tick(); },
    pause() { playing = false; if (sound) sound.pause(); paint(); },
    seek(to) { at = Math.min(Math.max(to, 0), seconds - 0.01); began = performance.now() - 1000 * at; if (sound) sound.currentTime = at; paint(); },
  };
  const speaker = sound && make("button", { type: "button", class: "round", click: () => {
    loud = !loud;
    setIcon(speaker, loud ? "sound" : "mute", loud ? "Sound on; turn it off" : "Sound off; turn it on");
    if (loud && playing) { claimSound(root); sound.currentTime = at; sound.play(); } else sound.pause();
  } }, icon("mute"));
  hush = () => { if (loud && playing) player.pause(); };
  if (speaker) setIcon(speaker, "mute", "Sound off; turn it on");
  const bar = playBar(seconds, player, speaker);

  const render = make("button", { type: "button", class: "primary", click: () => {
    player.pause(); // the server may be this computer
    const consent = document.querySelector("#consent input");
    if (!consent.checked) { // the server refuses; scroll to the tick
      consent.scrollIntoView({ block: "center", behavior: calm ? "auto" : "smooth" });
      consent.focus({ preventScroll: true });
    }
    trigger("chosen", { takes: picked() });
  } });
  const cards = takes.map((take, index) => {
    const name = `take ${value.numbers[index]}`;
    const canvas = make("canvas", { width: 288, height: 288, role: "img", "aria-label": `Sketch of the head in ${name}` });
    const curves = drawCurves(take.turn, limit, name, (share) => player.seek(share * seconds));
    const pick = make("input", { type: "checkbox", checked: true, change: count });
    const more = value.moving ? make("button", { type: "button", class: "quiet", "aria-label": `More takes like ${name}`,
      click: () => trigger("more", { take: index }) }, icon("more"), make("span", { text: "More like this" })) : null;
    const card = make("li", { class: "card draft" },
      make("label", { class: "pick" }, pick, make("span", { text: `Take ${value.numbers[index]}` })), canvas, curves,
      make("div", { class: "actions" }, more));
    return { card, canvas, curves, pick, take };
  });
  const picked = () => cards.flatMap((each, index) => (each.pick.checked ? [index] : []));
  function count() {
    const number = picked().length;
    cards.forEach((each) => each.card.classList.toggle("left-out", !each.pick.checked));
    render.textContent = number ? `Render ${number === cards.length ? (number > 1 ? `all ${number} takes` : "this take") : `${number} take${number > 1 ? "s" : ""}`}` : "Pick a take to render";
    render.disabled = !number;
  }
  count();
  const head = make("div", { class: "part-head" }, make("h3", { text: value.title, tabindex: -1 }), make("p", { class: "hint", text: value.hint }));
  root.append(
    head,
    ...value.notes.map((note) => make("p", { class: "note", text: note })),
    make("ul", { class: "cards", "data-takes": takes.length }, ...cards.map((each) => each.card)),
    legend(limit), bar, make("div", { class: "submit" }, render));

  function paint() {
    cards.forEach((each) => { drawHead(each.canvas, face, each.take, at * fps, shape); each.curves.moveTo(at / seconds); });
    bar.show(at, playing);
  }
  let last = 0, visible = true, pace = 38; // ms between two frames: 25 a second are enough
  new IntersectionObserver(([entry]) => { visible = entry.isIntersecting; }).observe(root);
  function tick(now = performance.now()) {
    if (current !== value || !playing || !root.isConnected) { if (sound && current !== value) sound.pause(); return; }
    requestAnimationFrame(tick);
    if (now - last < pace) return;
    last = now;
    at = loud && !sound.paused ? sound.currentTime : ((now - began) / 1000) % seconds;
    if (loud && sound.ended) { began = now; at = 0; sound.currentTime = 0; sound.play(); }
    if (!visible) return;
    const start = performance.now();
    paint();
    pace = Math.max(38, 3 * (performance.now() - start)); // leave two thirds of a slow computer's time to others
  }
  paint();
  tick();
  reveal(head.firstChild);
}

show(props.value);
watch("value", () => show(props.value));

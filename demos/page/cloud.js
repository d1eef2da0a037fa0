// The tab of point clouds: a file or a sample goes to the server over a WebSocket, and its labelled points come back as one
// buffer that goes to the graphics card as it is. Drawn only when something has changed. Nothing is loaded from another host.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const stage = part("stage"), view = part("view"), axes = part("axes");
const BYTES = 12;            // of a point; see effvision.demos.labelling
const SLOW_MS = 40, QUICK_MS = 20, FEWEST = 30000;
const RAMP = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"];
const STAGES = {
  receive: "Sending the file", wait: "Waiting", start: "Waiting", model: "Loading the model", read: "Reading the file",
  prepare: "Preparing the points", network: "Labelling", save: "Writing the result", send: "Fetching the points",
};

let socket = null, greeting = null, fatal = false;
let turn = 0, asked = null, seed = 0;  // what is labelled or was last: {sample} or {file}
let sending = null, began = 0, clock = null;
let cloud = null, pieces = null;       // the cloud on the page; the one that is coming in
let on = [], rows = [], sized = false;

// -- the connection: opened when something is to be labelled, or when the tab is first seen ---------------------------------------
function connect() {
  const address = new URL("effvision/live/points", document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const mine = socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    if (mine !== socket) return;
    if (typeof event.data === "string") hear(JSON.parse(event.data)); else takePiece(event.data);
  };
  socket.onclose = () => {
    if (mine !== socket) return;
    socket = null;
    expire();
    if (began) { finish(); say("The connection to the server was lost. Try again."); }
  };
}

function tell(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(typeof message === "string" || message instanceof ArrayBuffer ? message : JSON.stringify(message));
}

function hear(message) {
  if (message.kind === "hello") return greet(message);
  if (message.kind === "error") {
    if (message.turn !== undefined && message.turn !== null && message.turn !== turn) return;
    finish();
    return say(message.text);
  }
  if (message.turn !== turn || !began) return;
  if (message.kind === "progress") {
    progress(message);
    if (message.stage === "receive" && sending) { sending.seen = message.done; pump(); }
  } else if (message.kind === "result") {
    pieces = { about: message, data: new Uint8Array(message.bytes), filled: 0, begun: performance.now() };
    progress({ stage: "send", done: 0, total: message.bytes });
    if (!message.bytes) finish();
  }
}

function greet(message) {
  const same = greeting !== null;
  greeting = message;
  if (!same) {
    part("card").replaceChildren(...message.cards.map((card) => new Option(card.name, card.name)));
    part("runtime").replaceChildren(...message.runtimes.map((one) => new Option(one.title, one.name)));
    part("card").value = message.card;
    part("file").accept = message.suffixes.join(",");
    chooseCard();
  }
  element.dataset.ready = "yes";
  if (began) ask();
}

const card = () => greeting.cards.find((one) => one.name === part("card").value);

function chooseCard() {
  const one = card();
  part("sample").textContent = asked && "sample" in asked ? "Another sample" : "Show the sample";
  part("sample").title = `${one.sees}, generated`;
  part("card").title = one.summary;
  if (!cloud) part("note").textContent = `${one.name}: ${one.summary}` + (one.fields.length ? `. Files need ${one.fields.join(", ")}.` : ". Files need coordinates only.");
}

// -- asking ---------------------------------------------------------------------------------------------------------------------
function label(what) {
  cancel();
  asked = what;
  say(null);
  if (greeting && what.file && what.file.size > greeting.upload_bytes) {
    return say(`${what.file.name} has ${Math.ceil(what.file.size / 2 ** 20)} MB; the limit here is ${Math.floor(greeting.upload_bytes / 2 ** 20)} MB.\n`
      + `hint: the command line has none: effvision run ${part("card").value} FILE --save labelled.ply`);
  }
  turn += 1;
  began = performance.now();
  delete element.dataset.drawn;
  expire();
  progress({ stage: "wait", done: 0 });
  clock = setInterval(showSeconds, 100);
  showSeconds();
  if (!socket) connect();
  else if (socket.readyState === WebSocket.OPEN && greeting) ask();
}

function ask() {
  const wanted = { do: "label", turn, card: part("card").value, runtime: part("runtime").value };
  if (asked.file) {
    sending = { file: asked.file, at: 0, seen: 0, busy: false };
    tell({ ...wanted, name: asked.file.name, bytes: asked.file.size });
  } else tell({ ...wanted, sample: asked.sample });
}

async function pump() {  // at most four pieces on their way: what is cancelled stops soon
  const mine = sending;
  if (mine.busy) return;
  mine.busy = true;
  try {
    while (mine === sending && mine.at < mine.file.size && mine.at - mine.seen < 4 * greeting.piece) {
      const piece = await mine.file.slice(mine.at, mine.at + greeting.piece).arrayBuffer();
      if (mine !== sending) return;
      mine.at += piece.byteLength;
      tell(piece);
    }
  } catch (error) {  // changed or gone since it was chosen
    if (mine === sending) { cancel(); say(`${mine.file.name} cannot be read: ${error?.message ?? error}`); }
  }
  mine.busy = false;
}

function takePiece(data) {
  if (!pieces || pieces.about.turn !== turn || !began) return;
  pieces.data.set(new Uint8Array(data), pieces.filled);
  pieces.filled += data.byteLength;
  progress({ stage: "send", done: pieces.filled, total: pieces.data.length });
  if (pieces.filled < pieces.data.length) return;
  const { about, data: points, begun } = pieces;
  finish();
  show(about, points, begun);
}

function cancel() {
  if (!began) return;
  tell({ do: "cancel" });
  finish();
  turn += 1;
}

function finish() {
  clearInterval(clock);
  began = 0;
  sending = pieces = null;
  part("work").hidden = true;
  delete stage.dataset.busy;
}

function progress({ stage: name, done, total }) {
  let text = STAGES[name] ?? name;
  if (name === "wait" && done) text = `Waiting: ${done} before you`;
  else if (total) text += `: ${Math.floor((100 * done) / total)} %`;
  part("work-text").textContent = text;
  part("work-bar").style.transform = `scaleX(${total ? (done / total).toFixed(3) : 0})`;
  part("work").hidden = false;
  stage.dataset.busy = name;
}

const showSeconds = () => { part("seconds").textContent = `${((performance.now() - began) / 1000).toFixed(1)} s`; };

function expire() {  // the server has deleted the labelled cloud
  part("ply").removeAttribute("href");
  part("ply").setAttribute("aria-disabled", "true");
  part("ply").title = "The server keeps it no longer: label the cloud again";
}

function say(text) {
  const box = part("message");
  if (!box.hidden && box.textContent === text) return;
  box.hidden = !text;
  box.textContent = text ?? "";
}

// -- the answer -----------------------------------------------------------------------------------------------------------------
function show(about, points, begun) {
  const { labels, colours } = greeting.cards.find((one) => one.name === about.card);
  cloud = { ...about, labels, colours, bytes: points, words: new Uint16Array(points.buffer), count: about.shown };
  on = labels.map(() => true);
  part("title").textContent = about.name === "the sample" ? `Sample: ${card().sees}` : about.name;
  const size = about.size.map((side) => side.toPrecision(3)).join(" \u00d7 ");
  const selected = about.every > 1 ? `; shown: every ${ordinal(about.every)} of ${whole(about.points)}` : "";
  part("note").textContent = `${whole(about.points)} points, ${size} m${selected}`;
  makeLegend();
  const colour = part("colour");
  colour.options[1].disabled = !about.coloured;
  if (!about.coloured && colour.value === "1") colour.value = "0";
  const ms = (value) => (value === undefined ? "\u2013" : value < 1000 ? `${value.toFixed(value < 10 ? 1 : 0)} ms` : `${(value / 1000).toFixed(2)} s`);
  for (const name of ["receive", "read", "prepare", "network"]) part(name).textContent = ms(about.times[name]);
  part("rate").textContent = whole(Math.round((1000 * about.points) / (about.times.prepare + about.times.network)));
  part("ply").href = new URL(`effvision/points/${about.token}.ply`, document.baseURI);
  part("ply").removeAttribute("aria-disabled");
  part("ply").title = "All points, with label and score";
  part("after").hidden = part("legend-head").hidden = false;
  stage.dataset.shown = String(about.shown);
  seed = "sample" in asked ? asked.sample + 1 : seed;
  chooseCard();
  if (!sized) part("size").value = cloud.count < 5000 ? 7 : cloud.count < 150000 ? 3.5 : 2.5;
  home();
  load();
  draw();
  gl?.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));  // waits until it is drawn
  part("drawn").textContent = ms(performance.now() - begun);
  element.dataset.drawn = String(turn);
}

const whole = (number) => number.toLocaleString("en-GB");
const ordinal = (n) => (n === 2 ? "second" : n === 3 ? "third" : `${n}th`);

function makeLegend() {
  const order = cloud.labels.map((_, index) => index).sort((a, b) => cloud.counts[b] - cloud.counts[a]);
  rows = [];
  const made = order.filter((index) => cloud.counts[index]).map((index) => {
    const row = document.createElement("div");
    row.className = "class";
    row.innerHTML = '<input type="checkbox" checked /><i></i><button type="button"></button><span></span><span></span>';
    const [box, swatch, name, count, share] = row.children;
    row.dataset.class = index;
    swatch.style.background = `rgb(${cloud.colours[index].join(",")})`;
    name.textContent = cloud.labels[index];
    name.title = "Only this one; again: all";
    box.setAttribute("aria-label", `show ${cloud.labels[index]}`);
    count.textContent = whole(cloud.counts[index]);
    const percent = (100 * cloud.counts[index]) / cloud.points;
    share.textContent = percent < 0.1 ? "< 0.1 %" : `${percent.toFixed(1)} %`;
    box.onchange = () => { on[index] = box.checked; switched(); };
    name.onclick = () => {
      const alone = on[index] && rows.every((other) => other.index === index || !on[other.index]);
      for (const other of rows) on[other.index] = alone || other.index === index;
      switched();
    };
    rows.push({ row, box, index });
    return row;
  });
  part("legend").replaceChildren(...made);
  const absent = order.filter((index) => !cloud.counts[index]).map((index) => cloud.labels[index]);
  part("absent").hidden = !absent.length;
  part("absent-text").textContent = absent.length === 1 ? "1 class without points" : `${absent.length} classes without points`;
  part("absent-names").textContent = absent.join(", ");
}

function switched() {
  for (const { row, box, index } of rows) { box.checked = on[index]; row.classList.toggle("off", !on[index]); }
  part("picked").hidden = true;
  paintClasses();
  wake();
}

// -- the graphics card ----------------------------------------------------------------------------------------------------------
const VERTEX = `#version 300 es
in vec3 place; in uint label; in float score; in vec3 rgb;
uniform mat4 camera; uniform vec3 size; uniform float pixels, depth; uniform int mode; uniform sampler2D classes, ramp;
out vec3 colour; flat out float wide;
void main() {
  vec4 look = texelFetch(classes, ivec2(label, 0), 0);
  gl_Position = look.a < .5 ? vec4(2., 2., 2., 1.) : camera * vec4((place - .5) * size, 1.);
  wide = max(1., pixels * clamp(sqrt(depth / gl_Position.w), .5, 2.));
  gl_PointSize = wide;
  float share = mode == 2 ? place.z : score;
  colour = mode == 0 ? look.rgb : mode == 1 ? rgb : texture(ramp, vec2(share * .8 + .1, .5)).rgb;
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec3 colour; flat in float wide;
out vec4 pixel;
void main() {
  vec2 away = gl_PointCoord - .5;
  float edge = dot(away, away);
  if (wide > 2.5 && edge > .25) discard;
  pixel = vec4(colour * (1. - .2 * step(.16, edge) * smoothstep(4., 9., wide)), 1.);  // a darker rim parts large neighbours
}`;
let gl = null;
const places = {};

function begin() {
  gl = view.getContext("webgl2", { alpha: true, antialias: false, powerPreference: "high-performance" });
  if (!gl) return say("This browser has no WebGL 2, which draws the points. Switch on hardware acceleration or try another browser; labelling and the download work without.");
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  ["place", "label", "score", "rgb"].forEach((name, index) => gl.bindAttribLocation(program, index, name));
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) console.error(gl.getProgramInfoLog(program));
  gl.useProgram(program);
  for (const name of ["camera", "size", "pixels", "depth", "mode", "classes", "ramp"]) places[name] = gl.getUniformLocation(program, name);
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  for (let index = 0; index < 4; index += 1) gl.enableVertexAttribArray(index);
  gl.vertexAttribPointer(0, 3, gl.UNSIGNED_SHORT, true, BYTES, 0);
  gl.vertexAttribIPointer(1, 1, gl.UNSIGNED_SHORT, BYTES, 6);
  gl.vertexAttribPointer(2, 1, gl.UNSIGNED_BYTE, true, BYTES, 8);
  gl.vertexAttribPointer(3, 3, gl.UNSIGNED_BYTE, true, BYTES, 9);
  gl.enable(gl.DEPTH_TEST);
  texture(0, gl.NEAREST);
  texture(1, gl.LINEAR);
  const stops = RAMP.flatMap((hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16)).concat(255));
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, RAMP.length, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(stops));
  gl.uniform1i(places.classes, 0);
  gl.uniform1i(places.ramp, 1);
}

function texture(unit, filter) {
  gl.activeTexture(gl.TEXTURE0 + unit);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  for (const name of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, name, filter);
  for (const name of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, name, gl.CLAMP_TO_EDGE);
}

function load() {
  if (!gl || !cloud) return;
  gl.bufferData(gl.ARRAY_BUFFER, cloud.bytes, gl.STATIC_DRAW);
  budget = cloud.count;
  paintClasses();
}

function paintClasses() {  // colour, and whether it is on: all that a switch in the legend changes
  if (!gl || !cloud) return;
  const look = new Uint8Array(cloud.labels.flatMap((_, index) => [...cloud.colours[index], on[index] ? 255 : 0]));
  gl.activeTexture(gl.TEXTURE0);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, cloud.labels.length, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, look);
}

view.addEventListener("webglcontextlost", (event) => { event.preventDefault(); say("The browser has taken the graphics memory away; it is asked for again ..."); });
view.addEventListener("webglcontextrestored", () => { say(null); begin(); load(); wake(); });

// -- the eye --------------------------------------------------------------------------------------------------------------------
const eye = { yaw: 0, pitch: 0, distance: 1, target: [0, 0, 0] };
const ZOOM = 1 / Math.tan(Math.PI / 8);  // 45 degrees from top to bottom
let radius = 1;

function home() {  // all of the box in sight, as large as there is room
  radius = Math.max(1e-6, Math.hypot(...cloud.size) / 2);
  Object.assign(eye, { yaw: -0.6, pitch: 0.62, distance: radius * 2.6, target: [0, 0, 0] });
  for (let turns = 0; turns < 8 && view.clientHeight; turns += 1) {
    const m = matrix(), seen = [];
    for (let corner = 0; corner < 8; corner += 1) {
      const [x, y, z] = cloud.size.map((side, k) => (corner >> k & 1 ? side : -side) / 2), w = m[3] * x + m[7] * y + m[11] * z + m[15];
      seen.push([0, 1].map((k) => (m[k] * x + m[k + 4] * y + m[k + 8] * z + m[k + 12]) / w));
    }
    const [least, most] = [Math.min, Math.max].map((end) => [0, 1].map((k) => end(...seen.map((one) => one[k]))));
    moveBy(-((least[0] + most[0]) / 4) * view.clientWidth, ((least[1] + most[1]) / 4) * view.clientHeight);
    eye.distance = Math.max(radius * 1.05, (eye.distance * Math.max(most[0] - least[0], most[1] - least[1])) / 1.76);
  }
  wake();
}

function axesOfEye() {  // right, up, towards the eye; z is up
  const C = Math.cos(eye.yaw), S = Math.sin(eye.yaw), c = Math.cos(eye.pitch), s = Math.sin(eye.pitch);
  return [[C, S, 0], [-s * S, s * C, c], [c * S, -c * C, s]];
}

function matrix() {
  const [right, up, back] = axesOfEye(), aspect = view.clientWidth / view.clientHeight;
  const near = Math.max(eye.distance - radius * 3, eye.distance * 0.02), far = eye.distance + radius * 4;
  const a = (far + near) / (near - far), b = (2 * far * near) / (near - far), out = new Float32Array(16);
  const shift = (axis) => -(axis[0] * eye.target[0] + axis[1] * eye.target[1] + axis[2] * eye.target[2]);
  for (let k = 0; k < 3; k += 1) out.set([(ZOOM / aspect) * right[k], ZOOM * up[k], a * back[k], -back[k]], k * 4);
  const depth = shift(back) - eye.distance;
  out.set([(ZOOM / aspect) * shift(right), ZOOM * shift(up), a * depth + b, -depth], 12);
  return out;
}

// -- drawing: once after each change; while something moves as many points as there is time for ------------------------------------
let pending = 0, budget = 0, moving = false, settle = null;

function wake(inMotion = false) {
  clearTimeout(settle);
  if (inMotion) settle = setTimeout(() => wake(), 180);  // all points again, once it has come to rest
  moving = inMotion;
  if (!pending) pending = requestAnimationFrame(frame);
}

function frame(now) {
  pending = 0;
  draw();
  if (moving) requestAnimationFrame((then) => pace(then - now));  // a card that is behind lets the next frame wait
}

function pace(took) {
  if (!cloud) return;
  if (took > SLOW_MS) budget = Math.max(FEWEST, Math.floor(budget * Math.max(0.6, (SLOW_MS - 5) / took)));
  else if (took < QUICK_MS) budget = Math.ceil(budget * 1.15);
  budget = Math.min(budget, cloud.count);
}

function draw() {
  if (!cloud || !view.clientWidth) return;
  part("picked").hidden ||= moving;
  if (!gl || gl.isContextLost()) return;
  const ratio = Math.min(3, devicePixelRatio || 1);
  const width = Math.round(view.clientWidth * ratio), height = Math.round(view.clientHeight * ratio);
  if (view.width !== width || view.height !== height) { view.width = width; view.height = height; }
  gl.viewport(0, 0, width, height);
  gl.clearColor(0, 0, 0, 0);
  gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
  const count = moving ? budget : cloud.count;
  gl.uniformMatrix4fv(places.camera, false, matrix());
  gl.uniform3fv(places.size, cloud.size);
  gl.uniform1f(places.pixels, Number(part("size").value) * ratio * (moving ? Math.min(1.6, Math.sqrt(cloud.count / count)) : 1));
  gl.uniform1f(places.depth, eye.distance);
  gl.uniform1i(places.mode, Number(part("colour").value));
  gl.drawArrays(gl.POINTS, 0, count);
  view.dataset.moving = moving;
  view.dataset.count = count;
  view.dataset.frames = Number(view.dataset.frames ?? 0) + 1;
  drawHelpers();
}

function drawHelpers() {
  const perMetre = (view.clientHeight * ZOOM) / (2 * eye.distance), most = Math.min(130, view.clientWidth * 0.26) / perMetre;
  const power = 10 ** Math.floor(Math.log10(most)), metres = [5, 2, 1].find((step) => step * power <= most) * power;
  part("scale-bar").style.width = `${(metres * perMetre).toFixed(1)}px`;
  part("scale-text").textContent = metres >= 1000 ? `${metres / 1000} km` : metres >= 1 ? `${metres} m` : metres >= 0.01 ? `${Math.round(metres * 100)} cm` : `${Number((metres * 1000).toPrecision(2))} mm`;
  part("scale").hidden = axes.hidden = false;
  const pen = axes.getContext("2d"), basis = axesOfEye();
  pen.clearRect(0, 0, 120, 120);
  pen.lineWidth = 4;
  pen.font = "600 22px sans-serif";
  pen.textBaseline = "middle";
  pen.textAlign = "center";
  const arms = ["x", "y", "z"].map((name, k) => ({ name, x: basis[0][k], y: -basis[1][k], z: basis[2][k] })).sort((p, q) => p.z - q.z);
  for (const { name, x, y } of arms) {
    pen.strokeStyle = pen.fillStyle = { x: "#b3261e", y: "#1b6e2a", z: "#1c4fa0" }[name];
    pen.beginPath(); pen.moveTo(60, 60); pen.lineTo(60 + 36 * x, 60 + 36 * y); pen.stroke();
    pen.fillText(name, 60 + 49 * x, 60 + 49 * y);
  }
  const mode = part("colour").value, heights = [0, 1].map((end) => `${(cloud.low[2] + cloud.origin[2] + end * cloud.size[2]).toFixed(1)} m`);
  part("ramp").hidden = mode !== "2" && mode !== "3";
  [part("ramp-low").textContent, part("ramp-high").textContent] = mode === "2" ? heights : ["0", "1"];
}

// -- hands ----------------------------------------------------------------------------------------------------------------------
const held = new Map();  // pointer -> where it is
let travelled = 0;

function turnBy(x, y) {
  eye.yaw -= x * 0.008;
  eye.pitch = Math.max(-1.55, Math.min(1.55, eye.pitch + y * 0.008));
}
function moveBy(x, y) {
  const [right, up] = axesOfEye(), metres = (2 * eye.distance) / (view.clientHeight * ZOOM);
  for (let k = 0; k < 3; k += 1) eye.target[k] += metres * (-x * right[k] + y * up[k]);
}
const zoomBy = (factor) => { eye.distance = Math.max(radius * 0.01, Math.min(radius * 12, eye.distance * factor)); };

view.onpointerdown = (event) => {
  view.setPointerCapture(event.pointerId);
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (held.size === 1) travelled = 0;
  part("picked").hidden = true;
};
view.onpointermove = (event) => {
  const before = held.get(event.pointerId);
  if (!before || !cloud) return;
  const x = event.clientX - before.x, y = event.clientY - before.y, others = [...held].filter(([id]) => id !== event.pointerId);
  travelled += Math.hypot(x, y);
  if (others.length) {
    const [, other] = others[0], apart = (one) => Math.max(1, Math.hypot(one.x - other.x, one.y - other.y));
    zoomBy(apart(before) / apart({ x: event.clientX, y: event.clientY }));
    moveBy(x / 2, y / 2);
  } else if (event.shiftKey || event.buttons & 6) moveBy(x, y);
  else turnBy(x, y);
  held.set(event.pointerId, { x: event.clientX, y: event.clientY });
  wake(true);
};
view.onpointerup = view.onpointercancel = (event) => {
  if (!held.delete(event.pointerId)) return;
  if (event.type === "pointerup" && travelled < 4 && event.button === 0 && cloud) pick(event);
  if (!held.size && moving) wake();
};
view.oncontextmenu = (event) => event.preventDefault();
view.ondblclick = () => cloud && home();
view.addEventListener("wheel", (event) => {
  if (!cloud) return;
  event.preventDefault();
  zoomBy(Math.exp(Math.max(-120, Math.min(120, event.deltaY * (event.deltaMode ? 20 : 1))) * 0.0015));
  part("picked").hidden = true;
  wake(true);
}, { passive: false });
view.onkeydown = (event) => {
  const step = { ArrowLeft: [-24, 0], ArrowRight: [24, 0], ArrowUp: [0, -24], ArrowDown: [0, 24] }[event.key];
  if (!cloud || event.ctrlKey || event.metaKey || event.altKey) return;
  if (step) (event.shiftKey ? moveBy : turnBy)(...step);
  else if (event.key === "+" || event.key === "=") zoomBy(0.85);
  else if (event.key === "-") zoomBy(1 / 0.85);
  else if (event.key === "0" || event.key === "Home") home();
  else return;
  event.preventDefault();
  part("picked").hidden = true;
  wake(true);
};

function pick(event) {  // the nearest to the eye of the points within ten pixels; all on this side, no call of the server
  const box = view.getBoundingClientRect(), m = matrix(), [sx, sy, sz] = cloud.size, { words } = cloud;
  const wantX = event.clientX - box.left, wantY = event.clientY - box.top, reach = Math.max(6, Number(part("size").value));
  let best = -1, least = Infinity;
  for (let i = 0, at = 0; i < cloud.count; i += 1, at += 6) {
    if (!on[words[at + 3]]) continue;
    const x = (words[at] / 65535 - 0.5) * sx, y = (words[at + 1] / 65535 - 0.5) * sy, z = (words[at + 2] / 65535 - 0.5) * sz;
    const w = m[3] * x + m[7] * y + m[11] * z + m[15];
    if (w <= 0) continue;
    const px = (0.5 + (m[0] * x + m[4] * y + m[8] * z + m[12]) / w / 2) * box.width - wantX;
    const py = (0.5 - (m[1] * x + m[5] * y + m[9] * z + m[13]) / w / 2) * box.height - wantY;
    const off = Math.hypot(px, py);
    if (off > reach) continue;
    const cost = w / radius + off * 0.02;
    if (cost < least) { least = cost; best = i; }
  }
  const sign = part("picked");
  sign.hidden = best < 0;
  if (best < 0) return;
  const at = best * 6, world = [0, 1, 2].map((k) => (Math.round(100 * (cloud.low[k] + cloud.origin[k] + (words[at + k] / 65535) * cloud.size[k])) / 100 + 0).toFixed(2));
  sign.textContent = `${cloud.labels[words[at + 3]]}, score ${(cloud.bytes[best * BYTES + 8] / 255).toFixed(2)}\n${world.join("  ")} m`;
  sign.style.left = `${Math.max(90, Math.min(box.width - 90, wantX))}px`;
  sign.style.top = `${Math.max(56, wantY)}px`;
}

// -- what the visitor presses -----------------------------------------------------------------------------------------------------
function again() {  // the same with another model
  if (!asked) return chooseCard();
  label("sample" in asked ? { sample: asked.sample } : asked);
}
part("sample").onclick = () => label({ sample: seed % (greeting?.samples ?? 1000) });
part("file").onchange = () => {
  const file = part("file").files[0];
  part("file").value = "";
  if (file) label({ file });
};
part("card").onchange = again;
part("runtime").onchange = again;
part("cancel").onclick = cancel;
part("colour").onchange = () => wake();
part("size").oninput = () => { sized = true; wake(); };
part("reset").onclick = () => cloud && home();
part("all").onclick = () => { on.fill(true); switched(); };
part("none").onclick = () => { on.fill(false); switched(); };
part("png").onclick = () => {
  draw();
  const sheet = document.createElement("canvas"), pen = sheet.getContext("2d");
  sheet.width = view.width; sheet.height = view.height;
  pen.fillStyle = getComputedStyle(stage).backgroundColor;
  pen.fillRect(0, 0, sheet.width, sheet.height);
  pen.drawImage(view, 0, 0);
  sheet.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${cloud.name.replace(/\.[^.]*$/, "")}-labelled.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
};
let inside = 0;
stage.ondragenter = (event) => { event.preventDefault(); inside += 1; part("drop").hidden = false; };
stage.ondragover = (event) => event.preventDefault();
stage.ondragleave = () => { inside = Math.max(0, inside - 1); part("drop").hidden = inside === 0; };
stage.ondrop = (event) => {
  event.preventDefault();
  inside = 0;
  part("drop").hidden = true;
  const file = event.dataTransfer?.files[0];
  if (file) label({ file });
};
new ResizeObserver((_, observer) => {
  if (element.isConnected) return wake();
  observer.disconnect();  // the tab was taken off the page
  const closing = socket;
  socket = null;
  closing?.close();
}).observe(view);
begin();
connect();

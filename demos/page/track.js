// The tab that follows objects. Every picture is shown together with its own answer: a camera's picture waits here until its
// answer has come, a file's picture comes with it. What the visitor draws belongs to the picture that is shown, so that picture
// stands still while a box is drawn. Nothing is loaded from another host.
const stage = part("stage"), video = part("video"), shown = part("shown"), over = part("over");
const LEAST = 8, KEPT = 150, KEY_MS = 250, DETECTOR = "#D55E00", TRACKER = "#0072B2", GREY = "#c4c8d0";

let greeting = null, settings = null;
let source = null;          // null, "camera" or "file"
let still = false, started = false, atEnd = false;  // the picture stands; Start was pressed; the clip is over
let media = null, generation = 0;
let waiting = null;         // a camera's picture without an answer: {number, taken, canvas}
let newer = null;           // when a picture was taken that came meanwhile
let commands = [];          // to be said before the picture that is shown is sent again
let shownTaken = 0, nextNumber = 0;
let turn = 0, asked = null, reopen = null;  // number of the file; what to play once there is a connection; what Restart plays
let firstBoxes = [];
let last = null, size = [480, 360];         // the last answer; width and height of its frame
let drag = null;            // the box that is drawn, in pixels of the frame
let leaving = new Set();    // numbers that were asked to be removed
let shownAt = [], took = [], lags = [], history = [], keyAt = -1e9, rows = new Map();
const grab = document.createElement("canvas");

// -- the connection -----------------------------------------------------------------------------------------------------------
const line = makeLine("tracking", {
  hear,
  picture: (answer, bitmap) => {
    if (source !== "file" || answer.turn !== turn) return;
    show(bitmap);
    display(answer);
  },
  broken: (again) => { waiting = null; if (again && source === "file" && !asked) stop(); },
});

function hear(message) {
  if (message.kind === "hello") greet(message);
  else if (message.kind === "answer") answered(message);
  else if (message.kind === "state") {
    const current = source === "file" && message.turn === turn;
    if (message.runtime) { greeting.runtime = part("runtime").value = message.runtime; say(null); }
    if (message.detector) { nameOwn(message.detector); say(null); }
    if (message.settings) { settings = message.settings; showSettings(); }
    if (message.note && current) say(message.note, true);
    if (message.ended && current) line.after(() => { if (source === "file" && message.turn === turn) { atEnd = still = true; refresh(); } });
  } else if (message.kind === "error") {
    if (message.stopped && (source !== "file" || message.turn !== turn)) return;  // of a clip that was left
    if (message.ended) line.ended = true;
    if (message.ended || message.stopped) stop();
    if (waiting?.number === message.id) waiting = null;
    showSettings();
    part("runtime").value = greeting?.runtime ?? "";
    complain(message.text);
  }
}

const complain = (text) => say(text.replace(/\nhint: /, "\n"));

function greet(message) {
  const first = greeting === null;
  greeting = message;
  if (first) {
    settings = { ...message.settings };
    part("runtime").replaceChildren(...message.runtimes.map((one) => new Option(one.title, one.name)));
    part("every").max = message.most.every;
    part("wait_ms").max = message.most.wait_ms;
  }
  const runtime = first ? message.runtime : part("runtime").value;
  line.greeted();
  if (settings.detector === "own") { part("detector").options[1]?.remove(); settings.detector = "colour"; }  // it was forgotten
  if (!first) line.tell({ do: "settings", ...settings });
  if (runtime !== message.runtime) line.tell({ do: "runtime", name: runtime });
  part("runtime").value = runtime;
  showSettings();
  if (source === "camera") forget();
  if (first && !source && !asked) openSample(); else sendAsked();
}

function ask(command) {  // done in the picture that is shown
  line.wake();
  if (source === "file") return line.tell(command);
  commands.push(command);
  flush();
}

function flush() {
  if (waiting || !commands.length || source !== "camera" || !line.ready) return;
  commands.forEach(line.tell);
  commands = [];
  sendFrame(shown, shownTaken);
}

// -- the camera ---------------------------------------------------------------------------------------------------------------
async function startCamera() {
  stop();
  line.wake();
  if (noCamera()) return say(noCamera());
  const mine = generation;
  say("Waiting for the camera ...", true);
  try {
    const stream = await openCamera(part("cameras").value);
    if (mine !== generation) return closeCamera(stream, video);
    media = stream;
    video.srcObject = stream;
    stream.getVideoTracks()[0].onended = () => { stop(); say("The camera was unplugged or switched off."); };
    await video.play();
    if (mine !== generation) return;
    begin("camera", false);
    say(null);
    line.tell({ do: "reset" });
    listCameras();
    eachFrame(video, () => mine === generation && source === "camera", capture);
  } catch (error) {
    if (mine !== generation) return;
    stop();
    if (error.name === "OverconstrainedError") part("cameras").replaceChildren();
    say(cameraTrouble(error));
  }
}

const listCameras = () => fillCameras(media);

function capture(taken) {
  if (still || drag || !video.videoWidth) return;
  if (waiting) { newer = taken; return; }
  newer = null;
  const needed = settings?.by === "detector" || last?.objects.length || commands.length;
  const canvas = needed && line.ready ? grab : shown;
  const before = [canvas.width, canvas.height];
  grabFrame(video, canvas);
  if (canvas === grab) {
    if (shown.width !== grab.width || shown.height !== grab.height) { line.tell({ do: "reset" }); forget(); say("The camera's picture has another size now: draw the boxes anew.", true); }
    return sendFrame(grab, taken);
  }
  if (before[0] !== shown.width || before[1] !== shown.height) line.tell({ do: "reset" });  // objects are followed in frames of one size
  shownTaken = taken;
  size = [shown.width, shown.height];
  refresh();
}

async function sendFrame(canvas, taken) {
  const mine = generation, number = nextNumber;
  nextNumber = (nextNumber + 1) >>> 0;
  waiting = { number, taken, canvas };
  const message = await packFrame(canvas, taken, number);
  if (waiting?.number !== number) return;
  if (!message || mine !== generation || !line.open()) { waiting = null; return; }
  line.send(message);
}

function answered(answer) {
  if (waiting?.number !== answer.id || source !== "camera") return;
  const { taken, canvas } = waiting;
  waiting = null;
  shownTaken = taken;
  if (canvas !== shown) { show(canvas); lags.push(performance.now() - taken); }
  display(answer);
  flush();
  if (newer !== null && !waiting) capture(newer);
}

// -- files and the sample -----------------------------------------------------------------------------------------------------
const openSample = () => playFile(() => ({ sample: greeting.samples[0].name }));

async function openFile() {
  const file = part("file").files[0];
  part("file").value = "";
  if (!file) return;
  stop();
  line.wake();
  const large = tooLarge(file, greeting?.upload_bytes);
  if (large) return say(`${large}The command line has none: effvision run ${greeting.card} ${file.name}`);
  const mine = generation;
  say(`Sending ${file.name} to the server ...`, true);
  try {
    const path = await sendFile(file);
    if (mine === generation) playFile(() => ({ path }));
  } catch (error) {
    if (mine === generation) { stop(); say(`${file.name} could not be sent: ${error?.message ?? error}`); }
  }
}

function playFile(what, boxes = []) {
  stop();
  line.wake();
  turn += 1;
  say(null);
  reopen = what;
  const hold = settings?.by !== "detector" && !boxes.length;
  begin("file", hold);
  started = !hold;
  firstBoxes = boxes;
  shown.getContext("2d").clearRect(0, 0, shown.width, shown.height);
  asked = () => ({ ...what(), hold, boxes });
  if (line.ready) sendAsked();
  refresh();
}

function sendAsked() {
  if (asked) line.tell({ do: "play", turn, ...asked() });
  asked = null;
}

// -- one source at a time -----------------------------------------------------------------------------------------------------
function begin(what, hold) {
  source = what;
  still = hold;
  started = settings?.by === "detector";
  atEnd = false;
  stage.dataset.source = what;
  forget();
}

function stop() {
  generation += 1;
  asked = null;
  if (source === "file") line.tell({ do: "stop" });
  if (source === "camera") line.tell({ do: "reset" });
  closeCamera(media, video);
  media = waiting = source = null;
  still = started = atEnd = false;
  delete stage.dataset.source;
  forget();
}

function forget() {
  last = drag = newer = null;
  commands = []; shownAt = []; took = []; lags = []; history = []; keyAt = -1e9;
  leaving.clear();
  for (const name of ["fps", "took", "count", "lag", "speedup", "of-frames", "of-time"]) part(name).textContent = "\u2013";
  part("frames-fill").style.transform = part("time-fill").style.transform = "scaleX(0)";
  delete element.dataset.tracks;
  delete element.dataset.frame;
  refresh();
}

function pressGo() {
  if (!source) return;
  if (atEnd) return again();
  if (source === "camera" && !started && !still) { still = true; return refresh(); }  // freeze
  still = !still;
  if (!still && !started) { started = true; firstBoxes = (last?.objects ?? []).map((one) => one.box); }
  if (source === "file") line.tell({ do: still ? "hold" : "go" });
  line.wake();
  refresh();
}

function again() {
  if (source === "file") playFile(reopen, firstBoxes);
  else if (source === "camera") { line.tell({ do: "reset" }); still = started = false; forget(); }
}

function clear() {
  const ids = (last?.objects ?? []).map((one) => one.id).filter((id) => !leaving.has(id));
  if (ids.length) remove(ids);
}

function remove(ids) {
  if (atEnd) return;
  ids.forEach((id) => leaving.add(id));
  ask({ do: "remove", ids });
}

// -- the answer ---------------------------------------------------------------------------------------------------------------
function show(picture) {
  if (shown.width !== picture.width || shown.height !== picture.height) { shown.width = picture.width; shown.height = picture.height; }
  shown.getContext("2d").drawImage(picture, 0, 0);
}

function display(answer) {
  const now = performance.now();
  last = answer;
  size = answer.size;
  for (const id of leaving) if (!answer.objects.some((one) => one.id === id)) leaving.delete(id);
  if (answer.refused) { leaving.clear(); complain(answer.refused); }
  shownAt.push(now);
  took.push(answer.took_ms);
  if (answer.key) keyAt = now;
  history.push({ took: answer.took_ms, detector: answer.detector_ms });
  history = history.slice(-KEPT);
  element.dataset.frame = answer.id;
  element.dataset.tracks = JSON.stringify(answer.objects);
  refresh();
}

function refresh() {  // everything that follows from what is known
  const objects = last?.objects ?? [], lost = objects.filter((one) => one.lost).length, hand = settings?.by !== "detector";
  const able = { go: source, again: source && (started || source === "camera"), clear: hand && objects.length && !atEnd, stop: source };
  for (const [name, on] of Object.entries(able)) part(name).setAttribute("aria-disabled", String(!on));
  part("go").textContent = atEnd ? "Play again" : !started && source === "camera" && !still ? (hand ? "Freeze" : "Pause") : still ? (started ? "Continue" : "Start") : source ? "Pause" : "Start";
  part("go").classList.toggle("main", Boolean(source));
  part("sample").classList.toggle("main", !source);
  stage.toggleAttribute("data-drawing", Boolean(hand && source && !atEnd));
  let hint = "";
  if (source && atEnd) hint = "The end of the clip";
  else if (source && hand && !objects.length) hint = started ? "Drag a box around anything, at any time" : "Drag a box around what to follow";
  else if (source && hand && !started) hint = "Drag another box, or press Start";
  if (drag) hint = "";
  part("hint").hidden = !hint;
  if (hint && part("hint").textContent !== hint) part("hint").textContent = hint;
  part("title").textContent = objects.length ? `${objects.length} object${objects.length > 1 ? "s" : ""}${lost ? `, ${lost} lost` : ""}` : "Nothing followed yet";
  part("count").textContent = last ? `${objects.length}${lost ? ` (${lost} lost)` : ""}` : "\u2013";
  part("steps").hidden = !hand || objects.length > 0;
  part("clear").hidden = !hand;
  showKey();
  listObjects(objects, hand);
  paint();
}

const showKey = () => { part("key").hidden = settings?.by !== "detector" || !(still ? last?.key : performance.now() - keyAt < KEY_MS); };

function listObjects(objects, hand) {
  const there = new Set(objects.map((one) => one.id));
  for (const [id, row] of rows) if (!there.has(id)) { row.element.remove(); rows.delete(id); }
  for (const one of objects) {
    let row = rows.get(one.id);
    if (!row) {
      const made = document.createElement("div");
      made.className = "object";
      made.setAttribute("role", "listitem");
      made.innerHTML = '<i></i><span class="name"></span><span class="track"><div class="fill"></div></span><span class="number"></span><button type="button">\u00d7</button>';
      const [swatch, name, , number, button] = made.children;
      row = { element: made, name, fill: made.querySelector(".fill"), number, button, said: "" };
      swatch.style.background = row.fill.style.background = one.colour;
      button.setAttribute("aria-label", `stop following ${one.id}`);
      button.onclick = () => remove([one.id]);
      rows.set(one.id, row);
      part("objects").append(made);
    }
    const said = `${one.id} ${one.label ?? ""}`.trim();
    if (row.said !== said + one.lost) { row.name.textContent = said; if (one.lost) row.name.append(" ", Object.assign(document.createElement("b"), { textContent: "LOST" })); }
    row.said = said + one.lost;
    row.element.classList.toggle("lost", one.lost);
    row.fill.style.transform = `scaleX(${one.score.toFixed(3)})`;
    row.number.textContent = one.score.toFixed(2);
    row.button.hidden = !hand;
  }
}

// -- boxes on the picture -----------------------------------------------------------------------------------------------------
function view() {  // how pixels of the frame lie on the stage
  const scale = Math.min(over.clientWidth / size[0], over.clientHeight / size[1]) || 1;
  return { scale, left: (over.clientWidth - size[0] * scale) / 2, top: (over.clientHeight - size[1] * scale) / 2 };
}

const onStage = ([x1, y1, x2, y2], { scale, left, top }) => [left + x1 * scale, top + y1 * scale, left + x2 * scale, top + y2 * scale];

function cross(box, at) {  // where a box's x is, within the picture
  const [, y1, x2] = onStage(box, at), right = at.left + size[0] * at.scale;
  return [Math.min(x2, right - 13), Math.max(y1, at.top + 13)];
}

function paint() {
  const ratio = devicePixelRatio, width = Math.round(over.clientWidth * ratio), height = Math.round(over.clientHeight * ratio);
  if (over.width !== width || over.height !== height) { over.width = width; over.height = height; }
  const ink = over.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, over.clientWidth, over.clientHeight);
  if (!source) return;
  const at = view(), hand = settings?.by !== "detector";
  const objects = last?.objects ?? [], taken = [];
  for (const one of objects) outline(ink, onStage(one.box, at), one.lost ? GREY : one.colour, one.lost);
  for (const one of objects) {
    label(ink, onStage(one.box, at), one, taken);
    if (hand && !atEnd) paintCross(ink, cross(one.box, at));
  }
  if (drag) outline(ink, onStage(corners(drag), at), "#fff", false);
}

function outline(ink, [x1, y1, x2, y2], colour, dashed) {
  ink.setLineDash(dashed ? [9, 7] : []);
  for (const [style, width] of [["rgba(0,0,0,.55)", 5], [colour, 3]]) {
    ink.strokeStyle = style;
    ink.lineWidth = width;
    ink.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  ink.setLineDash([]);
}

function label(ink, [x1, y1, , y2], one, taken) {  // above its box, or where it hides no other label
  const text = `${one.id} ${one.label ?? ""}`.trim() + ` ${one.score.toFixed(2)}` + (one.lost ? " LOST" : ""), high = 20;
  ink.font = "600 13px system-ui, sans-serif";
  ink.textBaseline = "middle";
  const long = ink.measureText(text).width + 12 + (one.lost ? 5 : 0);
  const left = Math.max(0, Math.min(x1 - 1.5, over.clientWidth - long));
  const tops = [y1 - high - 2, y2 + 2, y1 + 2].filter((one) => one >= 0 && one + high <= over.clientHeight);
  const free = (top) => !taken.some((other) => left < other.right && other.left < left + long && Math.abs(top - other.top) < high);
  const top = tops.find(free) ?? tops[0] ?? Math.max(0, Math.min(y1, over.clientHeight - high));
  taken.push({ left, right: left + long, top });
  ink.fillStyle = one.lost ? "#3a3e46" : one.colour;
  ink.fillRect(left, top, long, high);
  if (one.lost) { ink.fillStyle = one.colour; ink.fillRect(left, top, 5, high); }
  ink.fillStyle = one.lost ? "#fff" : "#0e1016";
  ink.fillText(text, left + (one.lost ? 11 : 6), top + high / 2 + 0.5);
}

function paintCross(ink, [x, y]) {
  ink.beginPath();
  ink.arc(x, y, 10, 0, 7);
  ink.fillStyle = "rgba(16,20,24,.85)";
  ink.fill();
  ink.strokeStyle = "#fff";
  ink.lineWidth = 2;
  ink.beginPath();
  ink.moveTo(x - 4, y - 4); ink.lineTo(x + 4, y + 4); ink.moveTo(x + 4, y - 4); ink.lineTo(x - 4, y + 4);
  ink.stroke();
}

// -- drawing a box ------------------------------------------------------------------------------------------------------------
const corners = ({ from, to }) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];

function place(event) {  // in pixels of the frame, within it
  const box = over.getBoundingClientRect(), { scale, left, top } = view();
  const clip = (value, most) => Math.max(0, Math.min(most, value));
  return [clip((event.clientX - box.left - left) / scale, size[0]), clip((event.clientY - box.top - top) / scale, size[1])];
}

function crossUnder(event) {
  const box = over.getBoundingClientRect(), at = view(), reach = event.pointerType === "touch" ? 20 : 12;
  const near = (one) => { const [x, y] = cross(one.box, at); return Math.hypot(event.clientX - box.left - x, event.clientY - box.top - y) <= reach; };
  return (last?.objects ?? []).findLast?.(near) ?? null;
}

function beginDrag(from, to, pointer) {
  drag = { from, to, pointer };
  if (source === "camera" && !started) still = true;
  if (source === "file" && !still) line.tell({ do: "hold" });
  refresh();
}

function endDrag(keep) {
  const box = drag && corners(drag), { scale } = view();
  drag = null;
  if (box && keep) {
    const [wide, high] = [(box[2] - box[0]) * scale, (box[3] - box[1]) * scale];
    if (Math.min(wide, high) >= LEAST) { say(null); ask({ do: "add", boxes: [box.map((value) => Math.round(value * 100) / 100)] }); }
    else if (Math.max(wide, high) >= LEAST) say("That box is too thin: drag from one corner of the object to the opposite one.", true);
  }
  if (source === "file" && !still) line.tell({ do: "go" });
  refresh();
}

over.onpointerdown = (event) => {
  if (!stage.hasAttribute("data-drawing") || drag || event.button) return;
  const one = crossUnder(event);
  if (one) { if (!leaving.has(one.id)) remove([one.id]); return; }
  over.setPointerCapture(event.pointerId);
  beginDrag(place(event), place(event), event.pointerId);
};
over.onpointermove = (event) => {
  if (drag?.pointer === event.pointerId) { drag.to = place(event); paint(); }
  else over.classList.toggle("removing", Boolean(crossUnder(event)));
};
over.onpointerup = (event) => { if (drag?.pointer === event.pointerId) { drag.to = place(event); endDrag(true); } };
over.onpointercancel = (event) => { if (drag?.pointer === event.pointerId) endDrag(false); };
over.onkeydown = (event) => {
  if (!stage.hasAttribute("data-drawing")) return;
  const step = Math.max(2, Math.round(size[0] / 60)), moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.key === "Enter" && !drag) beginDrag([size[0] * 0.4, size[1] * 0.4], [size[0] * 0.6, size[1] * 0.6], null);
  else if (event.key === "Enter") endDrag(true);
  else if (event.key === "Escape" && drag) endDrag(false);
  else if (event.key === "Delete" || event.key === "Backspace") { const one = last?.objects.at(-1); if (one && !leaving.has(one.id)) remove([one.id]); }
  else if (moves[event.key] && drag) {
    const [dx, dy] = moves[event.key];
    drag.to = [drag.to[0] + dx, drag.to[1] + dy];
    if (!event.shiftKey) drag.from = [drag.from[0] + dx, drag.from[1] + dy];
    paint();
  } else return;
  event.preventDefault();
};

// -- the detector -------------------------------------------------------------------------------------------------------------
function chooseBy(by) {
  if (!settings || settings.by === by) return;
  change({ by });
  if (source === "file") playFile(reopen);
  else if (source === "camera") again();
}

function change(some) {
  line.wake();
  settings = { ...settings, ...some };
  line.tell({ do: "settings", ...some });
  showSettings();
}

function showSettings() {
  if (!settings) return;
  const hand = settings.by === "hand";
  part("by-hand").setAttribute("aria-pressed", String(hand));
  part("by-detector").setAttribute("aria-pressed", String(!hand));
  part("keys").hidden = hand;
  part("detector").value = settings.detector;
  for (const name of ["every", "confidence", "wait_ms"]) if (document.activeElement !== part(name)) part(name).value = settings[name];
  sliderTexts();
  for (const name of ["wait-label", "wait_ms", "wait_ms-text"]) part(name).hidden = settings.detector === "own";
  refresh();
}

function sliderTexts() {
  const every = Number(part("every").value), confidence = Number(part("confidence").value);
  part("every-text").textContent = every === 1 ? "frame" : `${every} frames`;
  part("confidence-text").textContent = confidence ? confidence.toFixed(2) : "never";
  part("wait_ms-text").textContent = `${part("wait_ms").value} ms`;
}

async function openDetector() {
  const file = part("onnx").files[0];
  part("onnx").value = "";
  if (!file) return;
  line.wake();
  const large = tooLarge(file, greeting?.upload_bytes);
  if (large) return say(large);
  say(`Sending ${file.name} to the server ...`, true);
  try {
    const path = await sendFile(file);
    say(`Opening ${file.name} ...`, true);
    line.tell({ do: "detector", path });
  } catch (error) { say(`${file.name} could not be sent: ${error?.message ?? error}`); }
}

function nameOwn(name) {
  part("detector").options[1]?.remove();
  part("detector").add(new Option(name, "own"));
  showSettings();
}

function drawChart() {
  const chart = part("chart"), ratio = devicePixelRatio, width = chart.clientWidth, height = 130;
  if (!width) return;
  if (chart.width !== Math.round(width * ratio)) { chart.width = Math.round(width * ratio); chart.height = Math.round(height * ratio); }
  const ink = chart.getContext("2d"), share = last?.share, colour = getComputedStyle(chart).color;
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  if (!history.length) return;
  const whole = share?.keys ? share.detector_ms / share.keys : 0, mean = share ? (share.detector_ms + share.tracker_ms) / share.frames : 0;
  const most = 1.25 * Math.max(20, whole, ...history.map((one) => one.took)), y = (ms) => height - (ms / most) * height, wide = width / KEPT;
  history.forEach((one, index) => {
    const left = width - (history.length - index) * wide;
    ink.fillStyle = TRACKER;
    ink.fillRect(left, y(one.took - one.detector), Math.max(1, wide - 0.6), height);
    ink.fillStyle = DETECTOR;
    ink.fillRect(left, y(one.took), Math.max(1, wide - 0.6), y(one.took - one.detector) - y(one.took));
  });
  ink.font = "12px system-ui, sans-serif";
  ink.strokeStyle = ink.fillStyle = colour;
  ink.setLineDash([5, 4]);
  ink.lineWidth = 1.5;
  ink.beginPath(); ink.moveTo(0, y(mean)); ink.lineTo(width, y(mean)); ink.stroke();
  ink.setLineDash([]);
  ink.fillText(`${most.toFixed(0)} ms`, 5, 14);
  ink.fillText("0", 5, height - 5);
}

const timer = setInterval(() => {
  if (!element.isConnected) return leave();
  const now = performance.now();
  showKey();
  if (settings?.by === "detector") drawChart();
  if (!source || !last) return;
  if (!still) shownAt = shownAt.filter((at) => at > now - 2000);
  took = took.slice(-40);
  lags = lags.slice(-60);
  const share = last.share;
  if (!still) part("fps").textContent = rateOf(shownAt);
  part("took").textContent = inMs(share ? (share.detector_ms + share.tracker_ms) / share.frames : median(took));
  part("lag").textContent = lags.length ? `${median(lags).toFixed(0)} ms` : "\u2013";
  part("lag-box").hidden = source !== "camera";
  if (!share?.keys) return;
  const percent = (value) => `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
  part("speedup").textContent = `${share.speedup.toFixed(1)}\u00d7`;
  part("speedup-text").textContent = `as fast as the detector on every frame (${(share.detector_ms / share.keys).toFixed(0)} ms each)`;
  part("of-frames").textContent = percent(share.of_frames);
  part("of-time").textContent = percent(share.of_time);
  part("frames-fill").style.transform = `scaleX(${share.of_frames.toFixed(3)})`;
  part("time-fill").style.transform = `scaleX(${share.of_time.toFixed(3)})`;
}, 150);

function leave() {  // the tab was taken off the page
  clearInterval(timer);
  sized.disconnect();
  seen.disconnect();
  navigator.mediaDevices?.removeEventListener("devicechange", listCameras);
  stop();
  line.close();
}

// -- what the visitor presses -------------------------------------------------------------------------------------------------
part("camera").onclick = startCamera;
part("file").onchange = openFile;
part("sample").onclick = () => { line.wake(); if (greeting) openSample(); };
part("go").onclick = pressGo;
part("again").onclick = () => { if (part("again").getAttribute("aria-disabled") === "false") again(); };
part("clear").onclick = clear;
part("stop").onclick = () => { stop(); say(null); };
part("cameras").onchange = startCamera;
part("by-hand").onclick = () => chooseBy("hand");
part("by-detector").onclick = () => chooseBy("detector");
part("detector").onchange = () => change({ detector: part("detector").value });
part("onnx").onchange = openDetector;
part("runtime").onchange = () => {
  line.wake();
  line.tell({ do: "runtime", name: part("runtime").value });
  if (source === "file") playFile(reopen); else if (source) again();
  say("Loading the model ...", true);
};
let slid = null;
for (const name of ["every", "confidence", "wait_ms"]) part(name).oninput = () => {
  sliderTexts();
  clearTimeout(slid);
  slid = setTimeout(() => change({ every: Number(part("every").value), confidence: Number(part("confidence").value), wait_ms: Number(part("wait_ms").value) }), 200);
};
navigator.mediaDevices?.addEventListener("devicechange", listCameras);
const sized = new ResizeObserver(paint);
sized.observe(stage);
const seen = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) { seen.disconnect(); line.wake(); } });
seen.observe(stage);
showSettings();
refresh();

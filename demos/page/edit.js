// The tab where a label map is painted on and the picture follows. The map lives here and on the server; what was painted since the
// last answer goes there in one piece, and one piece is under way at a time, so that a slow machine draws less often instead of
// falling behind. Until its pixels have come, a stroke is seen on the picture as a tint. Nothing is loaded from another host.
const root = part("edit"), map = part("map"), picture = part("picture");
const WIDEST_BRUSH = 96, KEPT = 90, REST_MS = 1200, PASSES = 3, MEASURED = 5;
const UPDATE = "#0072B2", FULL = "#D55E00", AREA = [255, 0, 200];
const HEADER = 17, FILE_HEADER = 9;

let greeting = null, columns = 256, rows = 256;
let labels = null;            // one byte a pixel; what is seen on the label map
let colours = [], chosen = 0, tool = "brush", brush = 18;
let drawn = false;            // there is a picture that follows
let stroke = 0, number = 0;
let drag = null;              // {pointer, last, from, to}: what the hand does now, in pixels of the map
let cursor = null;            // where the brush is
let dirty = null, flying = null, wishes = [];  // box not yet sent; what is under way; what is asked for after it
let tint = null, tinted = null, retint = false;  // 1 painted, 2 under way, 0 neither; that as a picture; whether it is behind
let area = null, areas = null;                 // 2 computed by the last update, 1 by the same stroke before it; as a picture
let areaStroke = -1;
let undos = 0, redos = 0, seed = 0;
let history = [], answeredAt = [], lags = [], full = [], fullAt = 0, differs = null, last = null;
let touchedAt = 0;            // when something was last changed; 0 if it was measured since

// -- the connection -----------------------------------------------------------------------------------------------------------
const line = makeLine("editing", {
  hear,
  bytes: take,
  broken: () => { flying = null; drawn = false; delete root.dataset.able; if (!line.ended) cover("Connecting ..."); },
});

function hear(message) {
  if (message.kind === "hello") greet(message);
  else if (message.kind === "measured") measured(message);
  else if (message.kind === "error") {
    flying = null;
    if (message.ended) { line.ended = true; drawn = false; delete root.dataset.able; cover(labels ? "Paint to begin again." : "Click here to try again."); }
    complain(message.text);
    pump();
  }
}

const ms = (value) => (value === undefined || value === null ? "\u2013" : `${value.toFixed(value < 100 ? 1 : 0)} ms`);
// It stands below the maps: what moves them while somebody paints would spoil the stroke.
function complain(text) {
  say(text.replace(/\nhint: /, "\n"));
  part("message").scrollIntoView({ block: "nearest" });
}

function greet(message) {
  const first = greeting === null;
  greeting = message;
  if (first) {
    [columns, rows] = message.size;
    colours = message.colours;
    seed = message.seed;
    for (const name of ["map", "picture"]) {
      Object.assign(part(name), { width: columns, height: rows });
      part(`${name}-stage`).style.aspectRatio = `${columns} / ${rows}`;
    }
    tint = new Uint8Array(columns * rows);
    area = new Uint8Array(columns * rows);
    tinted = sheet();
    areas = sheet();
    part("mode").replaceChildren(...message.modes.map((name) => new Option(name, name)));
    part("runtime").replaceChildren(...message.runtimes.map((one) => new Option(one.title, one.name)));
    part("runtime-box").hidden = message.runtimes.length < 2;
    makePalette();
  }
  undos = redos = 0;
  wishes = [];
  if (!first) for (const name of ["mode", "runtime"]) if (part(name).value !== message[name]) wishes.push({ do: name, name: part(name).value });
  if (first) nowIn(message);
  cover("Loading the model ...");
  line.greeted();
  refresh();
}

const sheet = () => Object.assign(document.createElement("canvas"), { width: columns, height: rows });

function cover(text) {
  part("cover").hidden = !text;
  part("cover-text").textContent = text;
}

function nowIn({ mode, runtime, promise }) {
  part("mode").value = mode;
  part("runtime").value = runtime;
  if (promise) part("mode-note").textContent = `${promise[0].toUpperCase()}${promise.slice(1)}.`;
}

// -- what is asked for ----------------------------------------------------------------------------------------------------------
function wish(what) {  // after what was painted before it; painting waits until it is done
  if (drag) endStroke(true);
  line.wake();
  wishes.push(what);
  pump();
  refresh();
}

function pump() {
  const idle = drawn && !flying && !dirty && !wishes.length;
  if (idle !== (element.dataset.idle === "yes")) element.dataset.idle = idle ? "yes" : "no";
  if (idle || flying || !drawn || !line.open()) return;
  if (dirty) return sendPainted();
  const next = wishes.shift();
  if (!next) return;
  begin(next.do);
  line.send(next.file ? fileMessage(next.file) : JSON.stringify({ ...next, id: number }));
}

function begin(what) {
  number = (number + 1) >>> 0 || 1;
  flying = { number, what, at: performance.now(), stroke };
}

function sendPainted() {
  const [left, top, right, bottom] = dirty, width = right - left, height = bottom - top;
  dirty = null;
  begin("paint");
  const message = new Uint8Array(HEADER + width * height), header = new DataView(message.buffer);
  header.setUint8(0, 1);
  header.setUint32(1, number, true);
  header.setUint32(5, stroke, true);
  [left, top, width, height].forEach((value, index) => header.setUint16(9 + 2 * index, value, true));
  for (let row = 0; row < height; row += 1) {
    const at = (top + row) * columns + left;
    message.set(labels.subarray(at, at + width), HEADER + row * width);
    for (let place = at; place < at + width; place += 1) if (tint[place]) tint[place] = 2;
  }
  line.send(message);
}

function fileMessage(data) {
  const message = new Uint8Array(FILE_HEADER + data.byteLength), header = new DataView(message.buffer);
  header.setUint8(0, 2);
  header.setUint32(1, number, true);
  header.setUint32(5, stroke, true);
  message.set(new Uint8Array(data), FILE_HEADER);
  return message;
}

// -- what comes back --------------------------------------------------------------------------------------------------------------
function take(data) {
  const length = new DataView(data).getUint32(0, true), bytes = new Uint8Array(data);
  const answer = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  let at = 4 + length;
  const next = (count) => bytes.subarray(at, at += count);
  const [, , width, height] = answer.picture, [, , wide, high] = answer.area, [, , across, down] = answer.labels;
  const pixels = next(width * height * 3), mask = next(Math.ceil((wide * high) / 8)), given = next(across * down);
  if (answer.id === 0 && !answer.all) return firstMap(given);
  const mine = flying?.number === answer.id ? flying : null;
  if (mine) flying = null;
  if (answer.kind === "refused") return refused(answer, given, mine);
  if (width) showPixels(answer.picture, pixels);
  if (across) showLabels(answer.labels, given);
  clearTint();
  showArea(answer, mask, mine);
  if (answer.mode) nowIn(answer);
  [undos, redos] = [answer.undo, answer.redo];
  if (answer.all) begun();
  else told(answer, mine);
  element.dataset.drawn = answer.id;
  pump();
  refresh();
}

function firstMap(given) {  // after the greeting; a map that was painted before the connection broke is kept
  if (!labels) {
    labels = new Uint8Array(given);
    showLabels([0, 0, columns, rows], given);
  } else dirty = [0, 0, columns, rows];
  refresh();
}

function begun() {  // a whole picture: of a new session
  drawn = true;
  root.dataset.able = "";
  cover("");
  history = []; lags = []; answeredAt = []; full = []; differs = last = null;
  fullAt = 0;
  touchedAt = performance.now();
}

function told(answer, mine) {
  const now = performance.now();
  say(answer.note || null, true);
  touchedAt = now;
  differs = null;  // it was another picture
  if (answer.moved || answer.took_ms === undefined) return;
  last = answer;
  history.push(answer.took_ms);
  history = history.slice(-KEPT);
  if (mine?.what !== "paint") return;
  answeredAt.push(now);
  lags.push(now - mine.at);
  lags = lags.slice(-20);
}

function refused(answer, given, mine) {
  if (mine?.what !== "measure") {  // what was painted on top of it goes too
    dirty = drag = null;
    tint.fill(0);
    retint = true;
    showLabels([0, 0, columns, rows], given);
  }
  nowIn(answer);
  complain(answer.text);
  pump();
  refresh();
}

function showPixels([left, top, width, height], pixels) {
  const image = new ImageData(width, height), data = image.data;
  for (let from = 0, to = 0; from < pixels.length; from += 3, to += 4) {
    data[to] = pixels[from]; data[to + 1] = pixels[from + 1]; data[to + 2] = pixels[from + 2]; data[to + 3] = 255;
  }
  picture.getContext("2d").putImageData(image, left, top);
}

function showLabels([left, top, width, height], given) {
  for (let row = 0; row < height; row += 1) labels.set(given.subarray(row * width, (row + 1) * width), (top + row) * columns + left);
  paintMap([left, top, left + width, top + height]);
}

function paintMap([left, top, right, bottom]) {
  const image = new ImageData(right - left, bottom - top), data = image.data;
  for (let row = top, to = 0; row < bottom; row += 1) {
    for (let at = row * columns + left; at < row * columns + right; at += 1, to += 4) {
      const colour = colours[labels[at]];
      data[to] = colour[0]; data[to + 1] = colour[1]; data[to + 2] = colour[2]; data[to + 3] = 255;
    }
  }
  map.getContext("2d").putImageData(image, left, top);
}

function clearTint() {
  retint = true;
  for (let at = 0; at < tint.length; at += 1) if (tint[at] === 2) tint[at] = 0;
}

function paintTint() {
  const ink = tinted.getContext("2d"), image = ink.createImageData(columns, rows), data = image.data;
  for (let at = 0; at < tint.length; at += 1) if (tint[at]) { data.set(colours[labels[at]], at * 4); data[at * 4 + 3] = 170; }
  ink.putImageData(image, 0, 0);
}

function showArea(answer, mask, mine) {
  const [left, top, width, height] = answer.area, same = mine?.what === "paint" && mine.stroke === areaStroke;
  for (let at = 0; at < area.length; at += 1) area[at] = same && area[at] ? 1 : 0;
  areaStroke = mine?.what === "paint" ? mine.stroke : -1;
  if (!answer.all) for (let at = 0; at < width * height; at += 1) {
    if (mask[at >> 3] >> (at & 7) & 1) area[(top + Math.floor(at / width)) * columns + left + (at % width)] = 2;
  }
  const ink = areas.getContext("2d"), image = ink.createImageData(columns, rows), data = image.data;
  for (let at = 0; at < area.length; at += 1) if (area[at]) { data.set(AREA, at * 4); data[at * 4 + 3] = area[at] === 2 ? 120 : 50; }
  ink.putImageData(image, 0, 0);
  element.dataset.area = answer.all ? "" : answer.area.join();
}

// -- the full pass ------------------------------------------------------------------------------------------------------------------
function measured(message) {
  if (flying?.number === message.id) flying = null;
  full.push(message.ms);
  full = full.slice(-MEASURED);
  fullAt = performance.now();
  differs = message;
  if (full.length >= PASSES) touchedAt = 0;
  pump();
  refresh();
}

function rest() {  // nobody paints: there is time to measure
  const now = performance.now();
  if (!drawn || drag || dirty || flying || wishes.length || !touchedAt || document.hidden || !visible()) return;
  if (now - touchedAt > REST_MS) wish({ do: "measure" });
}

// -- painting -------------------------------------------------------------------------------------------------------------------------
function fillWhere([left, top, right, bottom], inside) {  // gives the chosen class to pixels of a box
  const box = [Math.max(0, Math.floor(left)), Math.max(0, Math.floor(top)), Math.min(columns, Math.ceil(right)), Math.min(rows, Math.ceil(bottom))];
  let changed = false;
  for (let row = box[1]; row < box[3]; row += 1) {
    for (let column = box[0]; column < box[2]; column += 1) {
      const at = row * columns + column;
      if (labels[at] === chosen || !inside(column, row)) continue;
      labels[at] = chosen;
      tint[at] = 1;
      changed = true;
    }
  }
  if (changed) touch(box);
}

function touch(box) {
  dirty = dirty ? [Math.min(dirty[0], box[0]), Math.min(dirty[1], box[1]), Math.max(dirty[2], box[2]), Math.max(dirty[3], box[3])] : box;
  retint = true;
  paintMap(box);
  pump();
  paintSoon();
}

function segment([x1, y1], [x2, y2]) {  // a round brush pulled along a line: every pixel whose middle it meets, so that no gap stays
  const radius = Math.max(brush / 2, 0.71), dx = x2 - x1, dy = y2 - y1, long = dx * dx + dy * dy;
  fillWhere([Math.min(x1, x2) - radius, Math.min(y1, y2) - radius, Math.max(x1, x2) + radius, Math.max(y1, y2) + radius], (column, row) => {
    const x = column + 0.5 - x1, y = row + 0.5 - y1, share = long ? Math.max(0, Math.min(1, (x * dx + y * dy) / long)) : 0;
    return (x - share * dx) ** 2 + (y - share * dy) ** 2 <= radius * radius;
  });
}

function flood([x, y]) {
  const start = Math.floor(y) * columns + Math.floor(x), old = labels[start];
  if (old === chosen) return;
  const box = [columns, rows, 0, 0], todo = [start];
  labels[start] = chosen;
  while (todo.length) {
    const at = todo.pop(), column = at % columns, row = (at - column) / columns;
    tint[at] = 1;
    box[0] = Math.min(box[0], column); box[1] = Math.min(box[1], row); box[2] = Math.max(box[2], column + 1); box[3] = Math.max(box[3], row + 1);
    for (const [near, there] of [[at - 1, column > 0], [at + 1, column < columns - 1], [at - columns, row > 0], [at + columns, row < rows - 1]]) {
      if (there && labels[near] === old) { labels[near] = chosen; todo.push(near); }
    }
  }
  touch(box);
}

const corners = ({ from, to }) => [Math.min(from[0], to[0]), Math.min(from[1], to[1]), Math.max(from[0], to[0]), Math.max(from[1], to[1])];

function beginStroke(at, pointer) {
  line.wake();
  if (!labels || wishes.length || drag) return;
  if (flying && flying.what !== "paint" && flying.what !== "measure") return;  // another map is on its way
  stroke = (stroke + 1) >>> 0;
  drag = { pointer, last: at, from: at, to: at };
  if (tool === "fill") flood(at);
  else if (tool === "brush") segment(at, at);
}

function pull(at) {
  if (tool === "brush") segment(drag.last, at);
  drag.last = drag.to = at;
}

function endStroke(keep) {
  if (tool === "rectangle" && keep && drag) {
    const [left, top, right, bottom] = corners(drag).map(Math.floor);
    fillWhere([left, top, right + 1, bottom + 1], () => true);
  }
  drag = null;
  paintSoon();
}

function placeIn(over, event) {  // in pixels of the map
  const box = over.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * columns, ((event.clientY - box.top) / box.height) * rows];
}

const within = ([x, y]) => [Math.max(0, Math.min(columns - 0.01, x)), Math.max(0, Math.min(rows - 0.01, y))];

for (const over of [part("map-over"), part("picture-over")]) {
  over.onpointerdown = (event) => {
    if (event.button || drag) return;
    over.setPointerCapture(event.pointerId);
    cursor = placeIn(over, event);
    beginStroke(tool === "brush" ? cursor : within(cursor), event.pointerId);
    paintSoon();
  };
  over.onpointermove = (event) => {
    cursor = placeIn(over, event);
    if (drag?.pointer === event.pointerId) {
      const steps = event.getCoalescedEvents?.() ?? [];
      for (const step of steps.length ? steps : [event]) pull(tool === "brush" ? placeIn(over, step) : within(placeIn(over, step)));
    }
    paintSoon();
  };
  over.onpointerup = (event) => { if (drag?.pointer === event.pointerId) endStroke(true); if (event.pointerType === "touch") { cursor = null; paintSoon(); } };
  over.onpointercancel = (event) => { if (drag?.pointer === event.pointerId) endStroke(false); };
  over.onpointerleave = () => { if (!drag) { cursor = null; paintSoon(); } };
  over.oncontextmenu = (event) => {  // takes the class that is there
    event.preventDefault();
    const [x, y] = within(placeIn(over, event)).map(Math.floor);
    if (labels && !drag) choose(labels[y * columns + x]);
  };
  over.onkeydown = (event) => moveByKey(event);
  over.onblur = () => { if (drag?.pointer === "keys") endStroke(true); };
}

function moveByKey(event) {
  const step = event.shiftKey ? 16 : 4, moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (moves[event.key]) cursor = within([(cursor?.[0] ?? columns / 2) + moves[event.key][0], (cursor?.[1] ?? rows / 2) + moves[event.key][1]]);
  else if (event.key === " " || event.key === "Enter") {
    cursor ??= [columns / 2, rows / 2];
    beginStroke(cursor, "keys");
    if (drag) endStroke(true);
  } else return;
  event.preventDefault();
  paintSoon();
}

// -- over the map and the picture: the brush, and what was computed -----------------------------------------------------------------
let soon = 0;
const paintSoon = () => { soon ||= requestAnimationFrame(() => { soon = 0; paintOver(); }); };

function paintOver() {
  if (retint) paintTint();
  retint = false;
  for (const name of ["map", "picture"]) {
    const over = part(`${name}-over`), ratio = devicePixelRatio, width = Math.round(over.clientWidth * ratio), height = Math.round(over.clientHeight * ratio);
    if (!width) continue;
    if (over.width !== width || over.height !== height) { over.width = width; over.height = height; }
    const ink = over.getContext("2d"), scale = width / columns;
    ink.clearRect(0, 0, width, height);
    if (!labels) continue;
    ink.imageSmoothingEnabled = false;
    if (name === "picture") {
      if (part("overlay").checked) ink.drawImage(areas, 0, 0, width, height);
      ink.drawImage(tinted, 0, 0, width, height);
    }
    const colour = `rgb(${colours[chosen].join()})`;
    if (drag && tool === "rectangle") {
      const [left, top, right, bottom] = corners(drag).map(Math.floor);
      ink.fillStyle = colour;
      ink.globalAlpha = 0.6;
      ink.fillRect(left * scale, top * scale, (right + 1 - left) * scale, (bottom + 1 - top) * scale);
      ink.globalAlpha = 1;
    }
    if (!cursor) continue;
    const radius = tool === "brush" ? Math.max(3 * ratio, (brush / 2) * scale) : 4 * ratio;
    for (const [style, thick] of [["rgba(0,0,0,.75)", 3.5], ["#fff", 1.5]]) {
      ink.strokeStyle = style;
      ink.lineWidth = thick * ratio;
      ink.beginPath();
      ink.arc(cursor[0] * scale, cursor[1] * scale, radius, 0, 7);
      ink.stroke();
    }
  }
}

// -- what the visitor chooses -----------------------------------------------------------------------------------------------------------
function makePalette() {
  part("palette").append(...greeting.names.map((name, index) => {
    const row = document.createElement("label");
    row.className = "paint";
    row.innerHTML = '<input type="radio" name="effvision-edit-class" /><i></i><span></span><kbd aria-hidden="true"></kbd>';
    const [input, swatch, text, key] = row.children;
    input.value = index;
    input.onchange = () => choose(index);
    swatch.style.background = `rgb(${colours[index].join()})`;
    text.textContent = name;
    key.textContent = index < 9 ? String(index + 1) : "";
    return row;
  }));
  choose(greeting.names.indexOf("tree") >= 0 ? greeting.names.indexOf("tree") : 0);
}

function choose(index) {
  if (!(index < colours.length)) return;
  chosen = index;
  const input = part("palette").querySelectorAll("input")[index];
  input.checked = true;
  showChosen();
  paintSoon();
}

function showChosen() {  // on a narrow page the classes are one row that is longer than the page
  const box = part("palette"), row = box.querySelector("input:checked")?.parentElement;
  if (row && box.scrollWidth > box.clientWidth) box.scrollTo({ left: row.offsetLeft - (box.clientWidth - row.offsetWidth) / 2 });
}

function setBrush(wide) {
  brush = Math.max(1, Math.min(WIDEST_BRUSH, wide));
  part("size").value = brush;
  part("size-text").textContent = `${brush} px`;
  paintSoon();
}

function setTool(name) {
  if (drag) return;
  tool = name;
  for (const one of ["brush", "rectangle", "fill"]) part(one).setAttribute("aria-pressed", String(one === name));
  paintSoon();
}

const thicker = (up) => setBrush(up ? Math.ceil(brush * 1.25 + 0.01) : Math.floor(brush / 1.25));
const visible = () => element.isConnected && element.getClientRects().length > 0;
const on = (name) => part(name).getAttribute("aria-disabled") !== "true";
const undo = () => { if (on("undo")) wish({ do: "undo" }); };
const redo = () => { if (on("redo")) wish({ do: "redo" }); };

function keys(event) {
  if (!visible() || event.altKey || event.defaultPrevented || event.target.closest?.("select, textarea, input:not([type=radio], [type=range], [type=checkbox], [type=file])")) return;
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "z" && !event.shiftKey) undo();
    else if (key === "y" || key === "z") redo();
    else return;
  } else if (/^[1-9]$/.test(key) && labels) choose(Number(key) - 1);
  else if (key === "[" || key === "]") thicker(key === "]");
  else if (key === "escape" && drag && tool === "rectangle") endStroke(false);
  else return;
  event.preventDefault();
}

// -- files ------------------------------------------------------------------------------------------------------------------------------
async function openMap() {
  const file = part("file").files[0];
  part("file").value = "";
  if (!file) return;
  const large = greeting && tooLarge(file, greeting.file_bytes);
  if (large) return complain(large);
  try {
    const data = await file.arrayBuffer();
    stroke = (stroke + 1) >>> 0;
    say(null);
    wish({ do: "file", file: data });
  } catch (error) { complain(`${file.name} cannot be read: ${error?.message ?? error}`); }
}

function save(canvas, name) {
  canvas.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }, "image/png");
}

// -- figures ----------------------------------------------------------------------------------------------------------------------------
function refresh() {
  const idle = drawn && !wishes.length;
  const able = { undo: idle && undos, redo: idle && redos, measure: idle, "save-map": labels, "save-picture": drawn, scene: drawn };
  for (const [name, yes] of Object.entries(able)) part(name).setAttribute("aria-disabled", String(!yes));
  const dense = full.length ? median(full) : null, took = last?.took_ms, most = Math.max(dense ?? 0, took ?? 0) || 1;
  part("update-ms").textContent = ms(took);
  part("full-ms").textContent = ms(dense);
  part("update-fill").style.transform = `scaleX(${((took ?? 0) / most).toFixed(4)})`;
  part("full-fill").style.transform = `scaleX(${((dense ?? 0) / most).toFixed(4)})`;
  const share = last?.share;
  part("share-fill").style.transform = `scaleX(${Math.min(1, share ?? 0).toFixed(4)})`;
  part("share").textContent = share === undefined ? "\u2013" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
  part("share").title = last ? `${(last.macs / 1e9).toFixed(3)} of ${(last.dense_macs / 1e9).toFixed(3)} thousand million` : "";
  const ratio = dense && took ? dense / took : null;
  part("speedup").textContent = ratio ? `${ratio.toFixed(ratio < 10 ? 1 : 0)}\u00d7` : "\u2013";
  part("speedup-text").textContent = ratio ? "as fast as a full pass, this update" : drawn && took === undefined ? "Paint, and compare the times" : "The full pass is measured when you rest";
  part("differs").textContent = differs ? (differs.most ? `\u2264 ${differs.most} of 255` : "nowhere") : "\u2013";
  part("differs").title = differs ? `${differs.mean} on average; measured together with the full pass` : "";
  part("lag").textContent = lags.length ? `${median(lags).toFixed(0)} ms` : "\u2013";
  showMeasured();
  drawChart(dense);
  paintSoon();
}

function showMeasured() {
  const seconds = Math.round((performance.now() - fullAt) / 1000), ago = seconds < 90 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
  const count = full.length > 1 ? `median of ${full.length}` : "one pass";
  part("measured").textContent = full.length ? `${count}, ${ago} ago` : "not measured yet";
  part("rate").textContent = rateOf(answeredAt);
}

function drawChart(dense) {
  const chart = part("chart"), ratio = devicePixelRatio, width = chart.clientWidth, height = chart.clientHeight;
  if (!width) return;
  if (chart.width !== Math.round(width * ratio)) { chart.width = Math.round(width * ratio); chart.height = Math.round(height * ratio); }
  const ink = chart.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  if (!history.length && !dense) return;
  const most = 1.2 * Math.max(5, dense ?? 0, ...history), y = (ms) => height - (ms / most) * height, wide = width / KEPT;
  ink.fillStyle = UPDATE;
  history.forEach((ms, index) => ink.fillRect(width - (history.length - index) * wide, y(ms), Math.max(1, wide - 0.8), height));
  ink.fillStyle = getComputedStyle(chart).color;
  ink.font = "12px system-ui, sans-serif";
  ink.fillText(`${most.toFixed(0)} ms`, 5, 14);
  if (!dense) return;
  ink.strokeStyle = FULL;
  ink.lineWidth = 2;
  ink.setLineDash([6, 4]);
  ink.beginPath(); ink.moveTo(0, y(dense)); ink.lineTo(width, y(dense)); ink.stroke();
  ink.setLineDash([]);
}

const timer = setInterval(() => {
  if (!element.isConnected) return leave();
  const now = performance.now();
  if (!drag && answeredAt.length && now - answeredAt.at(-1) > 3000) answeredAt = [];
  answeredAt = answeredAt.filter((at) => at > now - 2000);
  showMeasured();
  rest();
}, 250);

function leave() {  // the tab was taken off the page
  clearInterval(timer);
  sized.disconnect();
  seen.disconnect();
  document.removeEventListener("keydown", keys);
  line.close();
}

// -- what the visitor presses ---------------------------------------------------------------------------------------------------------
part("undo").onclick = undo;
part("redo").onclick = redo;
for (const name of ["brush", "rectangle", "fill"]) part(name).onclick = () => setTool(name);
part("size").oninput = () => setBrush(Number(part("size").value));
part("scene").onclick = () => {
  if (!on("scene")) return;
  seed = (seed + 1) % greeting.seeds;
  stroke = (stroke + 1) >>> 0;
  say(null);
  wish({ do: "scene", seed, stroke });
};
for (const name of ["mode", "runtime"]) part(name).onchange = () => {
  say(name === "mode" ? "Drawing the picture in this mode ..." : "Loading the model ...", true);
  wish({ do: name, name: part(name).value });
};
part("measure").onclick = () => { if (on("measure")) { touchedAt ||= performance.now(); wish({ do: "measure" }); } };
part("overlay").onchange = paintSoon;
part("file").onchange = openMap;
part("save-map").onclick = () => { if (on("save-map")) save(map, "label-map.png"); };
part("save-picture").onclick = () => { if (on("save-picture")) save(picture, "scene.png"); };
document.addEventListener("keydown", keys);
const sized = new ResizeObserver(() => { showChosen(); paintSoon(); drawChart(full.length ? median(full) : null); });
sized.observe(part("map-stage"));
sized.observe(part("picture-stage"));
sized.observe(part("palette"));
const seen = new IntersectionObserver((entries) => { if (entries.some((one) => one.isIntersecting)) { seen.disconnect(); line.wake(); } });
seen.observe(part("map-stage"));
refresh();

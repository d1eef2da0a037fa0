// One live tab in the browser: camera frames go out over a WebSocket, at most two without an answer, and answers come back.
// A file is played by the server, which sends each frame with its answer. Nothing is loaded from another host.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const stage = part("stage"), video = part("video"), shown = part("shown"), strip = part("strip");
const UNANSWERED = 2, WIDEST = 640, STRIP_S = 20, QUALITY = 0.8;
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4FBF", "#B8860B", "#C2185B", "#8A9099"];
const INKS = ["#fff", "#000", "#000", "#000", "#000", "#000", "#fff", "#000", "#fff", "#000"];  // what is read best on each

let socket = null, greeting = null, retryMs = 500;
let ready = false, lost = false;  // greeted on this connection; it broke and the page says so
let ended = false;          // the server has closed the door; the next press of a button knocks again
let source = null;          // null, "camera" or "file"
let media = null;           // the camera's MediaStream
let waiting = new Map();    // number of a frame -> when it was taken, milliseconds of performance.now()
let nextNumber = 0, encoding = 0, dropped = 0, generation = 0;
let wished = null;          // the runtime the visitor chose; asked for again on a new connection
let turn = 0, asked = null;  // number of the file being played; what to play once there is a connection
let pictures = Promise.resolve();  // a file's frames, shown one after another
let figures = null, stepped = null;
let labels = [], rows = [], order = [], last = null, history = [], shownAt = [], lags = [];
let toSpeak = "", speaking = null;
const grab = document.createElement("canvas"), pen = grab.getContext("2d", { alpha: false });

// -- the connection -----------------------------------------------------------------------------------------------------------
function connect() {
  const address = new URL("effvision/live/gestures", document.baseURI);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const mine = socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    if (mine !== socket) return;
    if (typeof event.data === "string") hear(JSON.parse(event.data));
    else pictures = pictures.then(() => showFrame(event.data)).catch(() => {}).then(() => tell({ do: "seen" }));
  };
  socket.onclose = () => {
    if (mine !== socket) return;
    ready = false;
    waiting.clear();
    if (!element.isConnected || ended) return;
    if (source === "file" && !asked) show(null);
    say("The connection to the server was lost. Trying again ...");
    lost = true;
    setTimeout(() => { if (mine === socket) connect(); }, retryMs);
    retryMs = Math.min(8000, retryMs * 2);
  };
}
const tell = (message) => { if (ready && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message)); };

function wake() {
  if (!ended) return;
  ended = false;
  connect();
}

function hear(message) {
  if (message.kind === "hello") greet(message);
  else if (message.kind === "answer") {
    const taken = waiting.get(message.id);
    waiting.delete(message.id);
    if (source === "camera" && taken !== undefined) display(message, taken);
  } else if (message.kind === "state") {
    const current = source === "file" && message.turn === turn;
    if (message.runtime) { greeting.runtime = part("runtime").value = message.runtime; say(null); }
    if (message.note && current) say(message.note, true);
    if (message.ended && current) pictures = pictures.then(() => { if (source === "file" && message.turn === turn) finish(); });
  } else if (message.kind === "error") {
    if (message.stopped && (source !== "file" || message.turn !== turn)) return;  // of a clip that was left
    if (message.ended) ended = true;
    if (message.ended || message.stopped) stop();
    if ("id" in message) waiting.delete(message.id);
    if (greeting && wished !== greeting.runtime) { part("runtime").value = greeting.runtime; wished = null; }
    say(message.text.replace(/\nhint: /, "\n"));
  }
}

async function showFrame(data) {
  const length = new DataView(data).getUint32(0, true);
  const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
  const picture = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
  if (source === "file" && answer.turn === turn) {
    if (shown.width !== picture.width || shown.height !== picture.height) { shown.width = picture.width; shown.height = picture.height; }
    shown.getContext("2d").drawImage(picture, 0, 0);
    display(answer, null);
  }
  picture.close();
}

function greet(message) {
  const same = greeting?.card === message.card;  // else: the first time, or another server has taken the place
  greeting = message;
  ready = true;
  retryMs = 500;
  labels = message.labels;
  const fill = (select, items) => select.replaceChildren(...items.map((item) => new Option(item.title, item.name)));
  if (!same) {
    fill(part("sample"), message.samples);
    fill(part("runtime"), message.runtimes);
    makeBars();
  }
  part("runtime").value = message.runtime;
  if (lost) say(null);
  lost = false;
  element.dataset.ready = "yes";
  if ((wished && wished !== message.runtime) || part("quick").checked) askRuntime(wished ?? message.runtime);
  if (source === "camera") pump();
  sendAsked();
}

function askRuntime(name) {
  part("runtime").value = name;
  if (name !== greeting.runtime) say("Loading the model ...", true);
  tell({ do: "runtime", name, quick: part("quick").checked });
}

// -- the camera ---------------------------------------------------------------------------------------------------------------
const REFUSED = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it at the camera sign beside the address, then press Start camera again.",
  NotFoundError: "No camera was found on this computer. Plug one in, open a file, or play the sample.",
  NotReadableError: "The camera is there but could not be opened: another program may be using it.",
  OverconstrainedError: "That camera is no longer there. Press Start camera for another one.",
};

async function startCamera() {
  stop();
  wake();
  if (!navigator.mediaDevices?.getUserMedia) {
    return say("Browsers give a page a camera only over https or on the same machine. Open http://localhost:" + location.port
      + " on the machine that runs this, or start it with --certificate. Files and samples work without.");
  }
  const mine = generation;
  stoppable(true);
  say("Waiting for the camera ...", true);
  try {
    const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
    if (part("cameras").value) wanted.deviceId = { exact: part("cameras").value };
    const stream = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
    if (mine !== generation) return stream.getTracks().forEach((track) => track.stop());
    media = stream;
    video.srcObject = stream;
    stream.getVideoTracks()[0].onended = () => { stop(); say("The camera was unplugged or switched off."); };
    await video.play();
    if (mine !== generation) return;
    show("camera");
    say(null);
    tell({ do: "reset" });
    listCameras();
    pump();
  } catch (error) {
    if (mine !== generation) return;
    stop();
    if (error.name === "OverconstrainedError") part("cameras").replaceChildren();  // the next press takes what there is
    say(REFUSED[error.name] ?? `The camera could not be started: ${error.message}`);
  }
}

async function listCameras() {
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput" && device.deviceId);
  const select = part("cameras"), running = media?.getVideoTracks()[0]?.getSettings().deviceId;
  const chosen = running ?? cameras.find((camera) => camera.deviceId === select.value)?.deviceId;
  select.replaceChildren(...cameras.map((camera, index) => new Option(camera.label || `camera ${index + 1}`, camera.deviceId)));
  if (chosen) select.value = chosen;
  part("cameras-box").hidden = cameras.length < 2;
}

let pumping = -1;
function pump() {
  const mine = generation;
  if (pumping === mine) return;
  pumping = mine;
  let before = -1;
  const each = (now, about) => {
    if (mine !== generation || source !== "camera") { if (pumping === mine) pumping = -1; return; }
    if (about || video.currentTime !== before) capture(about?.captureTime ?? now);
    before = video.currentTime;
    next();
  };
  const next = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(each) : requestAnimationFrame((now) => each(now, null)));
  next();
}

function capture(taken) {
  if (socket?.readyState !== WebSocket.OPEN || !video.videoWidth) return;
  if (waiting.size + encoding >= UNANSWERED) { dropped += 1; return; }
  const scale = Math.min(1, WIDEST / Math.max(video.videoWidth, video.videoHeight));
  const width = Math.round(video.videoWidth * scale), height = Math.round(video.videoHeight * scale);
  if (grab.width !== width || grab.height !== height) { grab.width = width; grab.height = height; }
  pen.drawImage(video, 0, 0, width, height);
  encoding += 1;
  const mine = generation;
  grab.toBlob(async (blob) => {
    const jpeg = blob && (await blob.arrayBuffer());
    encoding -= 1;
    if (!jpeg || mine !== generation || socket?.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(12 + jpeg.byteLength), header = new DataView(message.buffer);
    header.setFloat64(0, taken / 1000, true);
    header.setUint32(8, nextNumber, true);
    message.set(new Uint8Array(jpeg), 12);
    waiting.set(nextNumber, taken);
    nextNumber = (nextNumber + 1) >>> 0;
    socket.send(message);
  }, "image/jpeg", QUALITY);
}

// -- files and samples --------------------------------------------------------------------------------------------------------
async function openFile() {
  const file = part("file").files[0];
  part("file").value = "";
  if (!file) return;
  stop();
  wake();
  if (file.size > greeting?.upload_bytes) {
    return say(`${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; the limit here is ${Math.floor(greeting.upload_bytes / 2 ** 20)} MB. `
      + "The command line has none: effvision run " + greeting.card + " " + file.name);
  }
  const mine = generation;
  stoppable(true);
  say(`Sending ${file.name} to the server ...`, true);
  try {
    const sent = await upload(file);
    if (mine !== generation) return;
    const path = sent?.path ?? sent?.[0]?.path;
    if (!path) throw new Error("the server did not take it");
    playFile(() => ({ path }));
  } catch (error) {
    if (mine === generation) { stop(); say(`${file.name} could not be sent: ${error?.message ?? error}`); }
  }
}

function playFile(what) {
  stop();
  wake();
  turn += 1;
  say(null);
  show("file");
  shown.getContext("2d").clearRect(0, 0, shown.width, shown.height);
  part("note").textContent = "opening the clip ...";
  asked = what;
  if (ready) sendAsked();
}

function sendAsked() {
  if (asked) tell({ do: "play", turn, ...asked() });
  asked = null;
}

function finish() {  // a file is at its end: its last picture stays, and so does the answer
  stoppable(false);
  part("note").textContent = "the end of the clip";
}

// -- one source at a time -----------------------------------------------------------------------------------------------------
function show(what) {
  source = what;
  if (what) stage.dataset.source = what; else delete stage.dataset.source;
  stoppable(Boolean(what));
  mirror();
  forget();
}

function stoppable(on) {  // not `disabled`: that would take the keyboard's place on the page away
  part("stop").setAttribute("aria-disabled", String(!on));
}

function stop() {
  generation += 1;
  asked = null;
  if (source === "file") tell({ do: "stop" });
  media?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
  media = null;
  video.srcObject = null;
  waiting.clear();
  show(null);
}

function forget() {
  last = null; figures = null; stepped = null; shownAt = []; lags = []; dropped = 0; history = [];
  part("label").textContent = "\u2013";
  part("caption-label").textContent = "";
  part("note").textContent = "nothing seen yet";
  for (const name of ["fps", "lag", "decode", "prepare", "network", "dropped"]) part(name).textContent = "\u2013";
  toSpeak = part("spoken").textContent = "";
  for (const { row, fill, number } of rows) { row.classList.remove("best"); fill.style.transform = "scaleX(0)"; number.textContent = ""; }
}

function mirror() {
  const on = source === "camera" && part("mirror").checked;
  stage.classList.toggle("mirrored", on);
  order = labels.map((_, index) => (on ? greeting.mirrored[index] : index));  // class of the network -> class a viewer sees
  history = [];
  last = null;
}

// -- the answer ---------------------------------------------------------------------------------------------------------------
function makeBars() {
  rows = labels.map((label, index) => {
    const row = document.createElement("div");
    row.className = "row";
    row.setAttribute("role", "listitem");
    row.innerHTML = '<span class="name"></span><span class="track"><div class="fill"></div></span><span class="number"></span>';
    row.querySelector(".name").textContent = label;
    const fill = row.querySelector(".fill");
    fill.style.background = COLOURS[index % COLOURS.length];
    return { row, fill, number: row.querySelector(".number") };
  });
  const bars = part("bars");
  bars.replaceChildren(...rows.map(({ row }) => row));
  bars.tabIndex = labels.length > 12 ? 0 : -1;  // what scrolls must be reached by the keyboard
  mirror();
}

function display(answer, taken) {
  const chosen = order[answer.chosen], label = labels[chosen];
  answer.scores.forEach((score, index) => {
    const { row, fill, number } = rows[order[index]];
    row.classList.toggle("best", order[index] === chosen);
    fill.style.transform = `scaleX(${score.toFixed(3)})`;
    number.textContent = Math.round(score * 100) + " %";
  });
  if (answer.settled) {
    part("label").textContent = label;
    part("caption-label").textContent = label;
    const best = answer.scores.indexOf(Math.max(...answer.scores)), score = answer.scores[best].toFixed(2);
    // the label is steadied: it may differ from the longest bar, and its own score would look like a mistake
    const said = best === answer.chosen ? `score ${score}` : `not sure enough of ${labels[order[best]]} (${score})`;
    part("note").textContent = answer.reset ? `began anew (${answer.reset})` : said;
  } else {
    part("note").textContent = answer.reset ? `began anew (${answer.reset}); too few frames to judge yet` : "too few frames to judge yet";
  }
  const now = performance.now();
  if (answer.settled && last !== chosen) {
    speak(label);
    reveal(rows[chosen].row);
    last = chosen;
  }
  history.push({ at: now, label: answer.settled ? chosen : null });
  shownAt.push(now);
  if (taken !== null && taken !== undefined) lags.push(now - taken);
  element.dataset.frame = answer.id;
  element.dataset.label = answer.settled ? label : "";
  figures = answer;
  if (answer.fresh) stepped = answer.timing;  // between two steps of the network the last answer is repeated
}

function speak(label) {  // once a second at most; what is left unsaid is said then, if it still holds
  toSpeak = label;
  if (speaking !== null) return;
  part("spoken").textContent = label;
  speaking = setTimeout(() => { speaking = null; if (toSpeak !== part("spoken").textContent) speak(toSpeak); }, 1000);
}

function reveal(row) {  // among many classes the best one would be out of sight
  const bars = part("bars");
  if (bars.scrollHeight <= bars.clientHeight || bars.matches(":hover, :focus")) return;
  const above = row.offsetTop - bars.offsetTop;
  if (above < bars.scrollTop || above + row.offsetHeight > bars.scrollTop + bars.clientHeight) bars.scrollTop = above - bars.clientHeight / 2;
}

const median = (values) => { const sorted = [...values].sort((a, b) => a - b); return sorted[sorted.length >> 1]; };
const timer = setInterval(() => {
  if (!source || !figures || !shownAt.length) return;
  const now = performance.now();
  shownAt = shownAt.filter((at) => at > now - 2000);
  lags = lags.slice(-60);
  const ms = (value) => (value === undefined ? "\u2013" : `${value.toFixed(1)} ms`);
  if (shownAt.length > 1) part("fps").textContent = ((shownAt.length - 1) / ((shownAt[shownAt.length - 1] - shownAt[0]) / 1000)).toFixed(0);
  part("lag").textContent = lags.length ? `${median(lags).toFixed(0)} ms` : "\u2013";
  part("decode").textContent = ms(figures.decode_ms);
  part("prepare").textContent = ms(stepped?.prepare_ms);
  part("network").textContent = ms(stepped?.run_ms);
  part("dropped").textContent = source === "camera" ? String(dropped) : "\u2013";
}, 500);

function drawStrip() {
  if (!element.isConnected) return leave();
  const now = performance.now();
  const width = Math.round(strip.clientWidth * devicePixelRatio), height = Math.round(44 * devicePixelRatio);
  if (width && (strip.width !== width || strip.height !== height)) { strip.width = width; strip.height = height; }
  const ink = strip.getContext("2d");
  ink.clearRect(0, 0, strip.width, strip.height);
  history = history.filter((item) => item.at > now - STRIP_S * 1000 - 500);
  const place = (at) => strip.width * (1 - (now - at) / (STRIP_S * 1000));
  ink.font = `600 ${12 * devicePixelRatio}px sans-serif`;
  ink.textBaseline = "middle";
  let from = 0;
  for (let index = 1; index <= history.length; index += 1) {
    if (index < history.length && history[index].label === history[from].label) continue;
    const end = index < history.length ? history[index].at : history[index - 1].at;
    const left = place(history[from].at), right = place(end), label = history[from].label;
    if (label !== null && right > left) {
      ink.fillStyle = COLOURS[label % COLOURS.length];
      ink.fillRect(left, 0, right - left, strip.height);
      ink.fillStyle = INKS[label % COLOURS.length];
      if (ink.measureText(labels[label]).width + 8 * devicePixelRatio < right - left) ink.fillText(labels[label], Math.max(4, left + 4 * devicePixelRatio), strip.height / 2);
    }
    from = index;
  }
}
const drawing = setInterval(drawStrip, 150);

function leave() {  // the tab was taken off the page
  clearInterval(timer);
  clearInterval(drawing);
  navigator.mediaDevices?.removeEventListener("devicechange", listCameras);
  stop();
  ended = true;
  socket.close();
}

function say(text, plain = false) {
  const box = part("message");
  if (!box.hidden && box.textContent === text) return;  // a screen reader would read it again
  box.hidden = !text;
  box.textContent = text ?? "";
  box.classList.toggle("plain", plain);
}

// -- what the visitor presses -------------------------------------------------------------------------------------------------
part("camera").onclick = startCamera;
part("stop").onclick = () => { stop(); say(null); };
part("file").onchange = openFile;
part("play").onclick = () => playFile(() => ({ sample: part("sample").value }));
part("reset").onclick = () => { tell({ do: "reset" }); history = []; };
part("mirror").onchange = mirror;
part("cameras").onchange = startCamera;
part("runtime").onchange = () => { wished = part("runtime").value; wake(); if (ready) askRuntime(wished); };
part("quick").onchange = () => { wake(); if (ready) askRuntime(part("runtime").value); };
navigator.mediaDevices?.addEventListener("devicechange", listCameras);
connect();

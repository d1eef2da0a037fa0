// One live tab in the browser: camera frames go out over a WebSocket, at most two without an answer, and answers come back.
// A file is played by the server, which sends each frame with its answer. Nothing is loaded from another host.
const stage = part("stage"), video = part("video"), shown = part("shown"), strip = part("strip");
const UNANSWERED = 2, STRIP_S = 20;
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A4FBF", "#B8860B", "#C2185B", "#8A9099"];
const INKS = ["#fff", "#000", "#000", "#000", "#000", "#000", "#fff", "#000", "#fff", "#000"];  // what is read best on each

let greeting = null;
let source = null;          // null, "camera" or "file"
let media = null;           // the camera's MediaStream
let waiting = new Map();    // number of a frame -> when it was taken, milliseconds of performance.now()
let nextNumber = 0, encoding = 0, dropped = 0, generation = 0;
let wished = null;          // the runtime the visitor chose; asked for again on a new connection
let turn = 0, asked = null;  // number of the file being played; what to play once there is a connection
let figures = null, stepped = null;
let labels = [], rows = [], order = [], last = null, history = [], shownAt = [], lags = [];
let toSpeak = "", speaking = null;
const grab = document.createElement("canvas");

// -- the connection -----------------------------------------------------------------------------------------------------------
const line = makeLine("gestures", {
  hear,
  picture: (answer, bitmap) => {
    if (source !== "file" || answer.turn !== turn) return;
    if (shown.width !== bitmap.width || shown.height !== bitmap.height) { shown.width = bitmap.width; shown.height = bitmap.height; }
    shown.getContext("2d").drawImage(bitmap, 0, 0);
    display(answer, null);
  },
  broken: (again) => {
    waiting.clear();
    if (again && source === "file" && !asked) show(null);
  },
});

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
    if (message.ended && current) line.after(() => { if (source === "file" && message.turn === turn) finish(); });
  } else if (message.kind === "error") {
    if (message.stopped && (source !== "file" || message.turn !== turn)) return;  // of a clip that was left
    if (message.ended) line.ended = true;
    if (message.ended || message.stopped) stop();
    if ("id" in message) waiting.delete(message.id);
    if (greeting && wished !== greeting.runtime) { part("runtime").value = greeting.runtime; wished = null; }
    say(message.text.replace(/\nhint: /, "\n"));
  }
}

function greet(message) {
  const same = greeting?.card === message.card;  // else: the first time, or another server has taken the place
  greeting = message;
  labels = message.labels;
  const fill = (select, items) => select.replaceChildren(...items.map((item) => new Option(item.title, item.name)));
  if (!same) {
    fill(part("sample"), message.samples);
    fill(part("runtime"), message.runtimes);
    makeBars();
  }
  part("runtime").value = message.runtime;
  line.greeted();
  if ((wished && wished !== message.runtime) || part("quick").checked) askRuntime(wished ?? message.runtime);
  if (source === "camera") pump();
  sendAsked();
}

function askRuntime(name) {
  part("runtime").value = name;
  if (name !== greeting.runtime) say("Loading the model ...", true);
  line.tell({ do: "runtime", name, quick: part("quick").checked });
}

// -- the camera ---------------------------------------------------------------------------------------------------------------
async function startCamera() {
  stop();
  line.wake();
  if (noCamera()) return say(noCamera());
  const mine = generation;
  stoppable(true);
  say("Waiting for the camera ...", true);
  try {
    const stream = await openCamera(part("cameras").value);
    if (mine !== generation) return stream.getTracks().forEach((track) => track.stop());
    media = stream;
    video.srcObject = stream;
    stream.getVideoTracks()[0].onended = () => { stop(); say("The camera was unplugged or switched off."); };
    await video.play();
    if (mine !== generation) return;
    show("camera");
    say(null);
    line.tell({ do: "reset" });
    listCameras();
    pump();
  } catch (error) {
    if (mine !== generation) return;
    stop();
    if (error.name === "OverconstrainedError") part("cameras").replaceChildren();  // the next press takes what there is
    say(cameraTrouble(error));
  }
}

const listCameras = () => fillCameras(media);

let pumping = -1;
function pump() {
  const mine = generation;
  if (pumping === mine) return;
  pumping = mine;
  eachFrame(video, () => {
    if (mine === generation && source === "camera") return true;
    if (pumping === mine) pumping = -1;
    return false;
  }, capture);
}

async function capture(taken) {
  if (!line.open() || !video.videoWidth) return;
  if (waiting.size + encoding >= UNANSWERED) { dropped += 1; return; }
  grabFrame(video, grab);
  encoding += 1;
  const mine = generation, number = nextNumber;
  nextNumber = (nextNumber + 1) >>> 0;
  const message = await packFrame(grab, taken, number);
  encoding -= 1;
  if (!message || mine !== generation || !line.open()) return;
  waiting.set(number, taken);
  line.send(message);
}

// -- files and samples --------------------------------------------------------------------------------------------------------
async function openFile() {
  const file = part("file").files[0];
  part("file").value = "";
  if (!file) return;
  stop();
  line.wake();
  const large = tooLarge(file, greeting?.upload_bytes);
  if (large) return say(`${large}The command line has none: effvision run ${greeting.card} ${file.name}`);
  const mine = generation;
  stoppable(true);
  say(`Sending ${file.name} to the server ...`, true);
  try {
    const path = await sendFile(file);
    if (mine !== generation) return;
    playFile(() => ({ path }));
  } catch (error) {
    if (mine === generation) { stop(); say(`${file.name} could not be sent: ${error?.message ?? error}`); }
  }
}

function playFile(what) {
  stop();
  line.wake();
  turn += 1;
  say(null);
  show("file");
  shown.getContext("2d").clearRect(0, 0, shown.width, shown.height);
  part("note").textContent = "opening the clip ...";
  asked = what;
  if (line.ready) sendAsked();
}

function sendAsked() {
  if (asked) line.tell({ do: "play", turn, ...asked() });
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
  if (source === "file") line.tell({ do: "stop" });
  closeCamera(media, video);
  media = null;
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

const timer = setInterval(() => {
  if (!source || !figures || !shownAt.length) return;
  const now = performance.now();
  shownAt = shownAt.filter((at) => at > now - 2000);
  lags = lags.slice(-60);
  if (shownAt.length > 1) part("fps").textContent = rateOf(shownAt);
  part("lag").textContent = lags.length ? `${median(lags).toFixed(0)} ms` : "\u2013";
  part("decode").textContent = inMs(figures.decode_ms);
  part("prepare").textContent = inMs(stepped?.prepare_ms);
  part("network").textContent = inMs(stepped?.run_ms);
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
  line.close();
}

// -- what the visitor presses -------------------------------------------------------------------------------------------------
part("camera").onclick = startCamera;
part("stop").onclick = () => { stop(); say(null); };
part("file").onchange = openFile;
part("play").onclick = () => playFile(() => ({ sample: part("sample").value }));
part("reset").onclick = () => { line.tell({ do: "reset" }); history = []; };
part("mirror").onchange = mirror;
part("cameras").onchange = startCamera;
part("runtime").onchange = () => { wished = part("runtime").value; line.wake(); if (line.ready) askRuntime(wished); };
part("quick").onchange = () => { line.wake(); if (line.ready) askRuntime(part("runtime").value); };
navigator.mediaDevices?.addEventListener("devicechange", listCameras);
line.connect();

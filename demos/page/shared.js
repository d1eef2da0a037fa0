// What the live tabs share, before the script of each: the connection, the camera, files on their way to the server.
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const WIDEST = 640, QUALITY = 0.8;
const median = (values) => { const sorted = [...values].sort((a, b) => a - b); return sorted[sorted.length >> 1]; };
const inMs = (value) => (value === undefined ? "\u2013" : `${value.toFixed(1)} ms`);
const rateOf = (times) => (times.length > 1 ? ((times.length - 1) / ((times[times.length - 1] - times[0]) / 1000)).toFixed(0) : "\u2013");

function say(text, plain = false) {
  const box = part("message");
  if (!box.hidden && box.textContent === text) return;  // a screen reader would read it again
  box.hidden = !text;
  box.textContent = text ?? "";
  box.classList.toggle("plain", plain);
}

// A WebSocket to the server that comes back when it breaks. `hear` gets each message, `picture` each frame of a file, one after
// another; `broken` is told before the next try. Once `ended`, the next `wake` knocks again. With `bytes` a tab reads binary messages
// itself.
function makeLine(name, { hear, picture, broken, bytes }) {
  let socket = null, retryMs = 500, pictures = Promise.resolve();
  const line = { ready: false, lost: false, ended: false };
  line.after = (work) => { pictures = pictures.then(work); return pictures; };
  line.open = () => socket?.readyState === WebSocket.OPEN;
  line.send = (data) => socket.send(data);
  line.tell = (message) => { if (line.ready && line.open()) socket.send(JSON.stringify(message)); };
  line.close = () => { line.ended = true; socket?.close(); };
  line.wake = () => { if (!line.ended && socket) return; line.ended = false; line.connect(); };
  line.greeted = () => {
    line.ready = true;
    retryMs = 500;
    if (line.lost) say(null);
    line.lost = false;
    element.dataset.ready = "yes";
  };
  line.connect = () => {
    const address = new URL(`effvision/live/${name}`, document.baseURI);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const mine = socket = new WebSocket(address);
    socket.binaryType = "arraybuffer";
    socket.onmessage = (event) => {
      if (mine !== socket) return;
      if (typeof event.data === "string") hear(JSON.parse(event.data));
      else if (bytes) bytes(event.data);
      else line.after(() => showPicture(event.data)).catch(() => {}).then(() => line.tell({ do: "seen" }));
    };
    socket.onclose = () => {
      if (mine !== socket) return;
      line.ready = false;
      broken(element.isConnected && !line.ended);
      if (!element.isConnected || line.ended) return;
      say("The connection to the server was lost. Trying again ...");
      line.lost = true;
      setTimeout(() => { if (mine === socket) line.connect(); }, retryMs);
      retryMs = Math.min(8000, retryMs * 2);
    };
  };
  const showPicture = async (data) => {
    const length = new DataView(data).getUint32(0, true);
    const answer = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
    const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    try { picture(answer, bitmap); } finally { bitmap.close(); }
  };
  return line;
}

// -- the camera ---------------------------------------------------------------------------------------------------------------
const REFUSED = {
  NotAllowedError: "The browser was not allowed to use the camera. Allow it at the camera sign beside the address, then press Start camera again.",
  NotFoundError: "No camera was found on this computer. Plug one in, open a file, or play the sample.",
  NotReadableError: "The camera is there but could not be opened: another program may be using it.",
  OverconstrainedError: "That camera is no longer there. Press Start camera for another one.",
};
const cameraTrouble = (error) => REFUSED[error.name] ?? `The camera could not be started: ${error.message}`;
const noCamera = () => (navigator.mediaDevices?.getUserMedia ? null : "Browsers give a page a camera only over https or on the same machine. "
  + `Open http://localhost:${location.port} on the machine that runs this, or start it with --certificate. Files and samples work without.`);

function openCamera(deviceId) {
  const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 30 } };
  if (deviceId) wanted.deviceId = { exact: deviceId };
  return navigator.mediaDevices.getUserMedia({ video: wanted, audio: false });
}

function closeCamera(stream, video) {
  stream?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
  video.srcObject = null;
}

async function fillCameras(stream) {  // the choice of cameras, shown where there are several
  const cameras = (await navigator.mediaDevices.enumerateDevices()).filter((device) => device.kind === "videoinput" && device.deviceId);
  const select = part("cameras"), running = stream?.getVideoTracks()[0]?.getSettings().deviceId;
  const chosen = running ?? cameras.find((camera) => camera.deviceId === select.value)?.deviceId;
  select.replaceChildren(...cameras.map((camera, index) => new Option(camera.label || `camera ${index + 1}`, camera.deviceId)));
  if (chosen) select.value = chosen;
  part("cameras-box").hidden = cameras.length < 2;
}

function eachFrame(video, alive, take) {  // `take` gets the time each new picture was taken, milliseconds of performance.now()
  let before = -1;
  const each = (now, about) => {
    if (!alive()) return;
    if (about || video.currentTime !== before) take(about?.captureTime ?? now);
    before = video.currentTime;
    next();
  };
  const next = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(each) : requestAnimationFrame((now) => each(now, null)));
  next();
}

function grabFrame(video, canvas) {  // into the canvas, which gets the picture's size, or a smaller one
  const scale = Math.min(1, WIDEST / Math.max(video.videoWidth, video.videoHeight));
  const width = Math.round(video.videoWidth * scale), height = Math.round(video.videoHeight * scale);
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  canvas.getContext("2d", { alpha: false }).drawImage(video, 0, 0, width, height);
}

async function packFrame(canvas, taken, number) {  // what the server takes: when, which, JPEG
  const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
  if (!blob) return null;
  const jpeg = await blob.arrayBuffer(), message = new Uint8Array(12 + jpeg.byteLength), header = new DataView(message.buffer);
  header.setFloat64(0, taken / 1000, true);
  header.setUint32(8, number, true);
  message.set(new Uint8Array(jpeg), 12);
  return message;
}

// -- files --------------------------------------------------------------------------------------------------------------------
const tooLarge = (file, bytes) => (file.size > bytes ? `${file.name} has ${Math.ceil(file.size / 2 ** 20)} MB; the limit here is ${Math.floor(bytes / 2 ** 20)} MB. ` : null);

async function sendFile(file) {  // through Gradio; returns where it lies on the server
  const sent = await upload(file);
  const path = sent?.path ?? sent?.[0]?.path;
  if (!path) throw new Error("the server did not take it");
  return path;
}


const wall = document.getElementById("wall");
const summary = document.getElementById("summary");
const login = document.getElementById("login");
const tiles = new Map();

// The token is kept until this tab is closed. It goes into a header only: a browser sends that for nobody else.
function ask(path) {
  const token = sessionStorage.getItem("token");
  return fetch(path, token ? { headers: { Authorization: `Bearer ${token}` } } : {});
}

function askForToken(reason) {
  document.getElementById("open").hidden = true;
  document.getElementById("refusal").textContent = sessionStorage.getItem("token") ? reason : "";
  sessionStorage.removeItem("token");
  summary.textContent = "";
  wall.hidden = true;
  login.hidden = false;
  document.getElementById("token").focus();
}

login.addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.getElementById("token");
  sessionStorage.setItem("token", field.value.trim());
  field.value = "";
  login.hidden = true;
  wall.hidden = false;
  refresh();
});

function tile(camera) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  const caption = document.createElement("figcaption");
  const [state, name, facts] = ["state", "name", "facts"].map((className) => {
    const part = document.createElement("span");
    part.className = className;
    caption.append(part);
    return part;
  });
  image.alt = `newest frame of ${camera.name}, with boxes`;
  figure.append(image, caption);
  wall.append(figure);
  return { figure, image, state, name, facts, loading: false };
}

// One picture under way for each camera: a slow camera or network never queues requests up.
async function picture(id, view) {
  if (view.loading) return;
  view.loading = true;
  try {
    const answer = await ask(`/api/v1/cameras/${id}/snapshot.jpg`);
    if (answer.ok) {
      const old = view.image.src;
      view.image.src = URL.createObjectURL(await answer.blob());
      if (old) URL.revokeObjectURL(old);
    }
  } catch { /* the summary line tells that the service is away */ } finally { view.loading = false; }
}

function show(camera) {
  if (!tiles.has(camera.id)) tiles.set(camera.id, tile(camera));
  const view = tiles.get(camera.id), status = camera.status;
  view.state.className = `state ${status.state}`;
  view.state.textContent = status.state;
  view.name.textContent = camera.name;
  view.facts.textContent = status.error && status.state !== "running"
    ? status.error.message : `${status.inferred_fps.toFixed(1)} of ${status.measured_fps.toFixed(1)} fps`;
  if (status.degradation) view.facts.textContent += `, ${status.degradation.name.replaceAll("_", " ")}`;
  view.facts.title = status.degradation ? `overload: ${status.degradation.reason}` : "";
  if (status.state === "running") picture(camera.id, view);
}

async function refresh() {
  try {
    const answer = await ask("/api/v1/cameras");
    if (answer.status === 401 || answer.status === 429) return askForToken((await answer.json()).detail);
    if (!answer.ok) throw new Error((await answer.json()).detail);
    const cameras = await answer.json();
    cameras.forEach(show);
    const ids = new Set(cameras.map((camera) => camera.id));
    for (const [id, view] of tiles) if (!ids.has(id)) { view.figure.remove(); tiles.delete(id); }
    const running = cameras.filter((camera) => camera.status.state === "running").length;
    summary.textContent = cameras.length ? `${running} of ${cameras.length} cameras running` : "no camera is registered";
  } catch (error) { summary.textContent = `no answer: ${error.message}`; }
  setTimeout(refresh, 500);
}
refresh();

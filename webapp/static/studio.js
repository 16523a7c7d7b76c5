/* RSO Studio: theme, shortcuts, copying, times, polling with ETag, charts. No inline handlers; nothing is fetched from elsewhere. */
"use strict";

(() => {
  const root = document.documentElement;
  const stored = localStorage.getItem("theme");
  if (stored === "light" || stored === "dark") root.dataset.theme = stored; // before the first paint

  const FAST = 2000, SLOW = 10000, SLOWEST = 60000;
  const charts = new Map(); // element -> figure last drawn

  // Times -------------------------------------------------------------------------------------------
  const UNITS = [["year", 31536000], ["month", 2592000], ["day", 86400], ["hour", 3600], ["minute", 60]];
  const words = new Intl.RelativeTimeFormat("en", { numeric: "auto" });

  function relative(date) {
    const seconds = (date - Date.now()) / 1000;
    const unit = UNITS.find(([, size]) => Math.abs(seconds) >= size);
    return unit ? words.format(Math.round(seconds / unit[1]), unit[0]) : "just now";
  }

  function tellTimes(scope) {
    for (const element of scope.querySelectorAll("time[data-relative]")) {
      const date = new Date(element.dateTime);
      element.textContent = relative(date);
      element.title = date.toLocaleString("en", { dateStyle: "full", timeStyle: "long" });
    }
  }

  // Polling -----------------------------------------------------------------------------------------
  // <div data-poll-url="…">: the answer replaces the content. [data-running] in it means "soon again";
  // [data-poll-reload] means that the rest of the page is out of date as well.
  function poll(element, apply) {
    const state = { etag: null, failures: 0, timer: 0 };
    const delay = () => {
      const pace = element.matches("[data-running]") || element.querySelector("[data-running]") ? FAST : SLOW;
      return Math.min(SLOWEST, (document.hidden ? SLOW : pace) * 2 ** Math.min(state.failures, 5));
    };
    const again = () => {
      clearTimeout(state.timer);
      if (element.isConnected) state.timer = setTimeout(ask, delay());
    };
    async function ask() {
      try {
        const headers = { "X-Requested-With": "fetch" };
        if (state.etag) headers["If-None-Match"] = state.etag;
        const url = element.dataset.pollUrl || element.dataset.plotlyUrl;
        // no-store: the browser's own cache would answer a 304 with the old 200.
        const response = await fetch(url, { headers, cache: "no-store", redirect: "manual" });
        if (response.type === "opaqueredirect") return location.reload(); // signed out meanwhile
        if (response.status === 404 || response.status === 403) return tellOffline(response.status);
        if (response.status !== 304) {
          if (!response.ok) throw new Error(`status ${response.status}`);
          await apply(response);
          state.etag = response.headers.get("ETag");
        }
        state.failures = 0;
        tellOffline(0);
      } catch {
        state.failures += 1;
        if (state.failures > 1) tellOffline(1);
      }
      again();
    }
    document.addEventListener("visibilitychange", () => { if (!document.hidden && element.isConnected) { clearTimeout(state.timer); ask(); } });
    return { ask, again };
  }

  function tellOffline(status) {
    let box = document.getElementById("offline");
    if (!status) return box?.remove();
    if (!box) {
      box = Object.assign(document.createElement("div"), { id: "offline", className: "note amber offline", role: "status" });
      document.body.append(box);
    }
    box.textContent = status === 1
      ? "The server does not answer; trying again. What you see may be old."
      : "You can no longer see this. Reload the page, or ask its owner to share it.";
  }

  async function replace(element, response) {
    const kept = element.contains(document.activeElement) ? document.activeElement.id : "";
    const follows = [...element.querySelectorAll("[data-follow]")].map(atEnd);
    const open = [...element.querySelectorAll("details[id][open]")].map((item) => item.id);
    element.innerHTML = await response.text();
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    [...element.querySelectorAll("[data-follow]")].forEach((item, index) => { if (follows[index] ?? true) item.scrollTop = item.scrollHeight; });
    if (kept) document.getElementById(kept)?.focus();
    if (element.querySelector("[data-poll-reload]")) location.reload();
    prepare(element);
  }
  const atEnd = (item) => item.scrollHeight - item.scrollTop - item.clientHeight < 40;

  // Charts ------------------------------------------------------------------------------------------
  // data-plotly="id of a <script type=application/json>" or data-plotly-url="…" (polled while [data-running]).
  // The figure is {data, layout, config?, running?}; colours may name a token: "var(--rso)".
  const probe = document.createElement("span");
  function colour(token) {
    probe.style.color = `var(${token})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  }
  function resolved(value) {
    if (typeof value === "string") return value.startsWith("var(--") ? colour(value.slice(4, -1)) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(resolved);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, resolved(item)]));
    return value;
  }
  function layoutOf(figure) {
    const axis = { gridcolor: colour("--line"), linecolor: colour("--line-strong"), zerolinecolor: colour("--line"), automargin: true, ticks: "outside", tickcolor: colour("--line"), ticklen: 4 };
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true, margin: { l: 48, r: 12, t: figure.layout?.title ? 36 : 12, b: 40 },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--muted") },
      colorway: ["--rso", "--dpo", "--slic", "--raft", "--rest", "--coin", "--sft"].map(colour),
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--line-strong"), font: { color: colour("--text") } },
      legend: { orientation: "h", y: 1.12, x: 0 }, bargap: 0.06,
    };
    const given = resolved(figure.layout || {});
    const layout = { ...base, ...given, font: { ...base.font, ...given.font }, margin: { ...base.margin, ...given.margin } };
    for (const name of new Set(["xaxis", "yaxis", ...Object.keys(given).filter((key) => /^[xy]axis\d*$/.test(key))])) layout[name] = { ...axis, ...given[name] };
    return layout;
  }
  function draw(element, figure) {
    charts.set(element, figure);
    if (!window.Plotly) return;
    const config = { displaylogo: false, responsive: true, displayModeBar: "hover", modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"], ...figure.config };
    window.Plotly.react(element, resolved(figure.data), layoutOf(figure), config);
  }
  function mountChart(element) {
    if (charts.has(element)) return;
    charts.set(element, null);
    const source = element.dataset.plotly && document.getElementById(element.dataset.plotly);
    if (source) return draw(element, JSON.parse(source.textContent));
    if (!element.dataset.plotlyUrl) return;
    const apply = async (response) => {
      const figure = await response.json();
      element.toggleAttribute("data-running", Boolean(figure.running));
      draw(element, figure);
    };
    poll(element, apply).ask();
  }
  function redraw() {
    for (const [element, figure] of charts) {
      if (!element.isConnected) charts.delete(element);
      else if (figure) draw(element, figure);
    }
  }

  // Theme, copying, shortcuts --------------------------------------------------------------------------
  const isDark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  function toggleTheme() {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    redraw();
  }
  async function copy(button) {
    await navigator.clipboard.writeText(button.dataset.copy);
    button.classList.add("copied");
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => { button.classList.remove("copied"); button.setAttribute("aria-label", "Copy"); }, 1500);
  }
  let lastKey = "";
  function shortcut(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [contenteditable]")) return;
    const go = lastKey === "g" && document.querySelector(`[data-shortcut="g ${event.key}"]`);
    lastKey = event.key;
    if (go) go.click();
    else if (event.key === "/") { const box = document.querySelector("input[type=search]"); if (box) { event.preventDefault(); box.focus(); box.select(); } }
    else if (event.key === "?") document.getElementById("shortcuts")?.togglePopover();
    else if (event.key === "t") toggleTheme();
  }

  // Dependent form parts: [data-when="name=value value2"] shows where the named control has one of the values.
  function showDependents(form) {
    for (const element of form.querySelectorAll("[data-when]")) {
      const [name, values] = element.dataset.when.split("=");
      const control = form.querySelector(`[name="${name}"]:checked`) || form.querySelector(`select[name="${name}"], input[name="${name}"]:not([type=radio])`);
      const value = control?.type === "checkbox" ? String(control.checked) : control?.value ?? "";
      element.hidden = !values.split(" ").includes(value);
    }
  }

  function prepare(scope) {
    tellTimes(scope);
    scope.querySelectorAll("[data-plotly], [data-plotly-url]").forEach(mountChart);
    scope.querySelectorAll("[data-follow]").forEach((item) => { item.scrollTop = item.scrollHeight; });
    scope.querySelectorAll("form").forEach(showDependents);
    for (const element of scope.querySelectorAll("[data-poll-url]")) poll(element, (response) => replace(element, response)).again();
  }

  document.addEventListener("DOMContentLoaded", () => {
    prepare(document);
    setInterval(() => tellTimes(document), 30000);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  });
  document.addEventListener("keydown", shortcut);
  document.addEventListener("change", (event) => {
    if (event.target.form) showDependents(event.target.form);
    if (event.target.matches("[data-submit-on-change]")) event.target.form.requestSubmit();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], [data-theme-toggle], [data-confirm]");
    if (!button) return;
    if ("copy" in button.dataset) copy(button);
    else if ("themeToggle" in button.dataset) toggleTheme();
    else if (!confirm(button.dataset.confirm)) event.preventDefault();
  });
  document.addEventListener("submit", (event) => {
    // A second click would upload a large file twice.
    const button = event.target.querySelector("[data-busy]");
    if (button && event.target.method === "post") setTimeout(() => { button.disabled = true; button.textContent = button.dataset.busy; });
  });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  document.addEventListener("htmx:load", (event) => prepare(event.detail.elt));
})();

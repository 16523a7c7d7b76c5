/* RSO Studio: theme, shortcuts, copying, confirming, times, polling with ETag. No inline handlers; nothing is fetched from elsewhere.
   charts.js listens to studio:prepare (new content stands in detail) and studio:theme, and polls through Studio.poll. */
"use strict";

(() => {
  const root = document.documentElement;
  const stored = localStorage.getItem("theme");
  if (stored === "light" || stored === "dark") root.dataset.theme = stored; // before the first paint

  const polled = new WeakSet();
  const FAST = 2000, SLOW = 10000, SLOWEST = 60000;

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
  function poll(element, url, apply) {
    const state = { etag: null, failures: 0, timer: 0, asking: false };
    const delay = () => {
      const pace = element.matches("[data-running]") || element.querySelector("[data-running]") ? FAST : SLOW;
      return Math.min(SLOWEST, (document.hidden ? SLOW : pace) * 2 ** Math.min(state.failures, 5));
    };
    const again = () => {
      clearTimeout(state.timer);
      if (element.isConnected) state.timer = setTimeout(ask, delay());
    };
    async function ask() {
      if (state.asking) return;
      state.asking = true;
      try {
        const headers = { "X-Requested-With": "fetch" };
        if (state.etag) headers["If-None-Match"] = state.etag;
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
      } finally {
        state.asking = false;
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
    const figures = new Map([...element.querySelectorAll("[data-chart]")].map((item) => [item.dataset.chart, item]));
    element.innerHTML = await response.text();
    // The figure that was there keeps its zoom; charts.js gives it the new values.
    for (const item of element.querySelectorAll("[data-chart]")) { const old = figures.get(item.dataset.chart); if (old) item.replaceWith(old); }
    for (const id of open) document.getElementById(id)?.setAttribute("open", "");
    [...element.querySelectorAll("[data-follow]")].forEach((item, index) => { if (follows[index] ?? true) item.scrollTop = item.scrollHeight; });
    if (kept) document.getElementById(kept)?.focus();
    if (element.querySelector("[data-poll-reload]")) location.reload();
    prepare(element);
  }
  const atEnd = (item) => item.scrollHeight - item.scrollTop - item.clientHeight < 40;

  // Theme, copying, shortcuts --------------------------------------------------------------------------
  const isDark = () => root.dataset.theme === "dark" || (!root.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  function toggleTheme() {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
    tellTheme();
  }
  const tellTheme = () => document.dispatchEvent(new CustomEvent("studio:theme"));
  async function copy(button) {
    const label = button.getAttribute("aria-label");
    await write(button.dataset.copy);
    button.classList.add("copied");
    button.setAttribute("aria-label", "Copied");
    setTimeout(() => {
      button.classList.remove("copied");
      if (label === null) button.removeAttribute("aria-label"); else button.setAttribute("aria-label", label);
    }, 1500);
  }
  async function write(text) {
    if (navigator.clipboard) return navigator.clipboard.writeText(text);
    // Without https and away from localhost there is no clipboard API.
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "sr" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }

  // A question before an action that cannot be undone: it names the thing, and Cancel has the focus.
  function confirmed(button) {
    const dialog = document.createElement("dialog");
    const text = Object.assign(document.createElement("p"), { textContent: button.dataset.confirm, id: "confirm-text" });
    const foot = Object.assign(document.createElement("div"), { className: "form-foot" });
    const no = Object.assign(document.createElement("button"), { type: "button", className: "button", textContent: "Cancel", autofocus: true });
    const yes = Object.assign(document.createElement("button"), { type: "button", className: "button danger", textContent: button.dataset.confirmWord || button.textContent.trim() });
    foot.append(no, yes);
    dialog.append(text, foot);
    dialog.setAttribute("aria-labelledby", "confirm-text");
    no.addEventListener("click", () => dialog.close());
    yes.addEventListener("click", () => { dialog.close(); button.dataset.confirmed = ""; button.form ? button.form.requestSubmit(button) : button.click(); delete button.dataset.confirmed; });
    dialog.addEventListener("close", () => { dialog.remove(); button.focus(); });
    document.body.append(dialog);
    dialog.showModal();
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

  // Whatever scrolls can be reached by keyboard; what does not is no stop on the way.
  function reachScrolling(scope) {
    for (const item of scope.querySelectorAll(".table-wrap, .clamp, pre.code, .log")) {
      if (item.scrollWidth > item.clientWidth || item.scrollHeight > item.clientHeight) item.tabIndex = 0;
      else item.removeAttribute("tabindex");
    }
  }

  function prepare(scope) {
    tellTimes(scope);
    reachScrolling(scope);
    scope.querySelectorAll("[data-follow]").forEach((item) => { item.scrollTop = item.scrollHeight; });
    scope.querySelectorAll("form").forEach(showDependents);
    for (const element of scope.querySelectorAll("[data-poll-url]")) {
      if (polled.has(element)) continue; // htmx tells of the whole page too when it starts
      polled.add(element);
      poll(element, element.dataset.pollUrl, (response) => replace(element, response)).again();
    }
    document.dispatchEvent(new CustomEvent("studio:prepare", { detail: scope }));
  }

  window.Studio = { poll, prepare };
  document.addEventListener("DOMContentLoaded", () => {
    prepare(document);
    setInterval(() => tellTimes(document), 30000);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tellTheme);
  });
  addEventListener("resize", () => reachScrolling(document));
  document.addEventListener("toggle", (event) => reachScrolling(event.target), true);
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
    else if (!("confirmed" in button.dataset)) { event.preventDefault(); confirmed(button); }
  });
  document.addEventListener("submit", (event) => {
    // A second click would upload a large file twice.
    const button = event.target.querySelector("[data-busy]");
    if (button && event.target.method === "post") setTimeout(() => { button.disabled = true; button.textContent = button.dataset.busy; });
  });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  document.addEventListener("htmx:load", (event) => prepare(event.detail.elt));
})();

/* The rating page: keys, drafts, active time, the next task at once, and answers that outlive a lost connection.
   Without this script every form still works; with it nothing is asked twice and nobody waits. Nothing here knows which system wrote what. */
"use strict";

(() => {
  const root = document.documentElement;
  root.classList.add("js");
  const IDLE = 60000, BEAT = 15000, LAST = 120, KEPT_DAYS = 3;
  const RETRIES = [1000, 2000, 5000, 10000, 20000];
  const QUEUE = "rating-queue", DRAFT = "rating-draft:", KEYS = "rating-keys";

  let task = null; // the form in hand
  let ahead = null; // the next one as HTML, under its own lease
  let sending = null, failures = 0, timer = 0;
  let mark = 0, choosing = false;

  const $ = (selector, scope = document) => scope.querySelector(selector);
  const all = (selector, scope = document) => [...scope.querySelectorAll(selector)];

  // What cannot be kept (a private window with storage switched off) is kept as long as the page.
  const memory = new Map();
  function read(key) { try { return localStorage.getItem(key); } catch { return memory.get(key) ?? null; } }
  function write(key, text) { try { localStorage.setItem(key, text); } catch { memory.set(key, text); } }
  function forget(key) { try { localStorage.removeItem(key); } catch { memory.delete(key); } }
  function parsed(text, otherwise) { try { return JSON.parse(text) ?? otherwise; } catch { return otherwise; } }

  function say(text, waits = false) {
    const line = $("#state");
    if (!line) return;
    line.textContent = text;
    line.classList.toggle("waits", waits);
  }

  // Active time: the page is in front, in this tab and no other, and something was done within a minute ----------------
  let counted = performance.now(), touched = counted, active = 0, watching = false;
  const isInFront = () => document.visibilityState === "visible" && document.hasFocus();
  function count() {
    const now = performance.now(), until = Math.min(now, touched + IDLE);
    if (watching && until > counted) active += until - counted;
    counted = now;
    watching = isInFront();
  }
  function touch() { count(); touched = performance.now(); }
  function takeActive() { count(); const taken = Math.round(active); active -= taken; return taken; }

  // Requests ------------------------------------------------------------------------------------------------
  function csrf() {
    const cookie = document.cookie.split("; ").find((item) => item.startsWith("csrftoken="));
    return cookie ? cookie.slice(10) : $("[name=csrfmiddlewaretoken]")?.value ?? "";
  }
  function post(url, values, accept = "application/json") {
    return fetch(url, {
      method: "POST", body: new URLSearchParams(values), cache: "no-store", redirect: "manual",
      headers: { Accept: accept, "X-CSRFToken": csrf() },
    });
  }

  // Drafts: here at once, at the server with the next heartbeat ----------------------------------------------
  let drafted = ""; // what the server has
  const fields = (form) => Object.fromEntries([...new FormData(form)].filter(([name]) => /^(q\d|best|reason)$/.test(name)));
  function keepDraft() {
    if (!task || task.dataset.mode === "edit") return;
    write(DRAFT + task.dataset.token, JSON.stringify({ at: Date.now(), values: fields(task) }));
  }
  function restoreDraft() {
    const kept = parsed(read(DRAFT + task.dataset.token), null);
    for (const [name, value] of Object.entries(kept?.values ?? {})) {
      const control = $(`input[name="${CSS.escape(name)}"][value="${CSS.escape(value)}"]`, task);
      if (control) control.checked = true;
      else if (name === "reason") $("[name=reason]", task).value = value;
    }
  }
  function forgetOldDrafts() {
    let keys = [];
    try { keys = Object.keys(localStorage); } catch { return; }
    for (const key of keys.filter((name) => name.startsWith(DRAFT))) {
      if (Date.now() - (parsed(read(key), {}).at ?? 0) > KEPT_DAYS * 86400000) forget(key);
    }
  }

  // Heartbeats and the lease ----------------------------------------------------------------------------------
  let ends = Infinity, told = ""; // what was said of the lease
  function hold(seconds) { ends = performance.now() + seconds * 1000; if (seconds > LAST) told = ""; }
  function beatValues() {
    const values = { token: task.dataset.token, active_ms: takeActive() };
    const draft = JSON.stringify(fields(task));
    return draft === drafted ? values : { ...values, ...fields(task), drafted: "1" };
  }
  async function beat({ shown = false } = {}) {
    if (!task || task.dataset.mode === "edit" || task.dataset.gone) return;
    const mine = task, values = beatValues();
    if (!shown && values.active_ms < 500 && !values.drafted) return; // nobody is at work: let the lease run out
    try {
      const response = await post(mine.dataset.beat, values);
      if (response.type === "opaqueredirect") return signedOut();
      if (!response.ok) throw new Error(`status ${response.status}`);
      const { held, seconds } = await response.json();
      if (mine !== task) return;
      if (values.drafted) drafted = JSON.stringify(Object.fromEntries(Object.entries(values).filter(([name]) => /^(q\d|best|reason)$/.test(name))));
      if (held) return hold(seconds);
      if (shown) return location.assign(mine.action); // prefetched, and taken by somebody else since
      mine.dataset.gone = "1";
      hold(0);
    } catch {
      active += values.active_ms; // told again with the next one
    }
  }
  function tellLease() {
    const box = $("#lease"), left = Math.ceil((ends - performance.now()) / 1000);
    if (!box || !task || task.dataset.mode === "edit") return;
    box.hidden = left > LAST;
    if (box.hidden) return;
    box.textContent = left > 0
      ? `This task is kept for you for ${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} more. Go on with it to keep it longer.`
      : "This task is not kept for you any more. You can still submit: the answer counts unless somebody else has the task by then.";
    const news = left > 0 ? "soon" : "over";
    if (told !== news) say(news === "soon" ? "This task is kept for you for two more minutes." : box.textContent, true);
    told = news;
  }

  // Answers: kept here until the server has said what became of them ---------------------------------------------
  const queue = () => parsed(read(QUEUE), []);
  function keepQueue(entries) { entries.length ? write(QUEUE, JSON.stringify(entries)) : forget(QUEUE); }
  function enqueue(entry) { keepQueue([...queue(), entry]); }
  const mine = () => queue().filter((entry) => entry.who === task?.dataset.who);

  function flush() {
    sending ??= sendAll().finally(() => { sending = null; });
    return sending;
  }
  async function sendAll() {
    clearTimeout(timer);
    for (let entry = mine()[0]; entry; entry = mine()[0]) {
      let reply = null;
      try {
        const response = await post(entry.url, entry.values);
        if (response.type === "opaqueredirect") return signedOut();
        if (response.status >= 500 || response.status === 403 || response.status === 429) throw new Error(`status ${response.status}`);
        reply = await response.json();
      } catch {
        failures += 1;
        const waiting = mine().length;
        say(`The server does not answer. ${waiting === 1 ? "Your answer is" : `${waiting} answers are`} kept on this device and sent as soon as it does.`, true);
        timer = setTimeout(() => flush().then(settled), RETRIES[Math.min(failures, RETRIES.length) - 1]);
        return null;
      }
      failures = 0;
      keepQueue(queue().filter((other) => other.values.client_id !== entry.values.client_id));
      forget(DRAFT + entry.values.token);
      say(reply.say ?? "", !reply.ok);
      if (reply.go) return reply;
      if (entry.values.token === task.dataset.token) task.classList.add("waits"); // nothing is left to do on this one
      if (!reply.ok) sessionStorage.setItem("rating-say", reply.say ?? "");
    }
    return { ok: true };
  }
  function signedOut() {
    say("You are signed out. What you answered is kept on this device: sign in, or open your link again, in another tab, then come back.", true);
    timer = setTimeout(() => flush().then(settled), RETRIES.at(-1));
    return null;
  }
  // After everything was sent: fetch the next task, or go there when there was none to show at once.
  function settled(reply) {
    if (!reply || !task) return;
    if (reply.go) return location.assign(reply.go);
    if (task.classList.contains("waits")) return location.assign(task.action);
    beat({ shown: true }).then(prefetch);
  }
  async function prefetch() {
    if (!task || task.dataset.mode !== "new" || ahead !== null || mine().length) return;
    const current = task;
    try {
      const response = await post(current.dataset.ahead, { token: current.dataset.token }, "text/html");
      if (response.status === 200 && response.type !== "opaqueredirect" && current === task) ahead = await response.text();
    } catch { /* the page asks again when it needs the next one */ }
  }

  function missing() {
    const places = all("[data-quality]", task).filter((group) => !$(":checked", group));
    const named = places.map((group) => `the score of Response ${group.dataset.quality}`);
    const first = places[0] ? $("input", places[0]) : $("[name=best]", task);
    if (!$("[name=best]:checked", task)) named.push("which is the best");
    return { named, first };
  }
  function contradicts() {
    const best = $("[name=best]:checked", task)?.value;
    const scores = all("[data-quality] :checked", task).map((input) => [input.name, Number(input.value)]);
    const own = scores.find(([name]) => name === `q${best}`)?.[1];
    return own !== undefined && scores.some(([, score]) => score > own);
  }
  function submitted(event) {
    if (event.submitter?.hasAttribute("formaction")) { $("[name=active_ms]", task).value = takeActive(); return; } // skip and flag
    const { named, first } = missing();
    if (named.length) {
      event.preventDefault();
      say(`Still missing: ${named.join(", ")}.`, true);
      first.focus();
      return;
    }
    const asked = $("[name=asked]", task), question = $("#contradiction", task);
    if (contradicts() && !asked.value) {
      event.preventDefault();
      asked.value = "1";
      question.hidden = false;
      question.focus();
      return;
    }
    if (task.dataset.mode === "edit") return; // an ordinary form
    event.preventDefault();
    if (task.classList.contains("waits")) return;
    $("[name=active_ms]", task).value = takeActive();
    const values = Object.fromEntries([...new FormData(task)].filter(([name]) => /^(q\d|best|reason|token|client_id|active_ms|asked)$/.test(name)));
    enqueue({ who: task.dataset.who, url: task.action, values });
    if (ahead !== null && task.dataset.mode === "new") show(ahead);
    else task.classList.add("waits");
    say("Saving…");
    flush().then(settled);
  }

  // Showing a task ------------------------------------------------------------------------------------------------
  function show(html) {
    const holder = document.createElement("template");
    holder.innerHTML = html; // our own server's, sanitised there
    const next = $("#task", holder.content);
    if ($("#raw", task)?.checked) $("#raw", next).checked = true;
    $("#prompt", next).open = $("#prompt", task).open;
    task.replaceWith(next);
    ahead = null;
    $("#messages")?.replaceChildren();
    $("#instructions")?.removeAttribute("open");
    begin(next);
    scrollTo({ top: 0, behavior: "instant" });
    $("#task-heading").focus({ preventScroll: true });
  }
  function begin(form) {
    task = form;
    mark = 0;
    choosing = false;
    active = 0;
    drafted = JSON.stringify(fields(form));
    if (form.dataset.mode !== "edit") restoreDraft();
    hold("lease" in form.dataset ? Number(form.dataset.lease) : Infinity);
    form.noValidate = true; // what is missing is said in one sentence instead
    form.addEventListener("submit", submitted);
    tellAnswered();
  }
  function tellAnswered() {
    for (const group of all("[data-quality]", task)) {
      $(`.jump a[href="#response-${group.dataset.quality}"]`, task)?.classList.toggle("answered", Boolean($(":checked", group)));
    }
    $('.jump a[href="#best"]', task)?.classList.toggle("answered", Boolean($("[name=best]:checked", task)));
  }

  // Keys ------------------------------------------------------------------------------------------------------------
  const groups = () => all("[data-quality]", task);
  function showMark() {
    all(".marked").forEach((item) => item.classList.remove("marked"));
    const column = choosing ? $(".verdict", task) : groups()[mark]?.closest(".column");
    column?.classList.add("marked");
    return column;
  }
  function moveTo(place) {
    choosing = false;
    mark = Math.max(0, Math.min(groups().length - 1, place));
    const column = showMark(), group = groups()[mark];
    ($(":checked", group) ?? $("input", group)).focus({ preventScroll: true });
    column.scrollIntoView({ block: "nearest" });
  }
  function choose() {
    choosing = true;
    showMark()?.scrollIntoView({ block: "nearest" });
    ($("[name=best]:checked", task) ?? $("[name=best]", task)).focus({ preventScroll: true });
  }
  function pick(name, value) {
    const input = $(`input[name="${name}"][value="${value}"]`, task);
    if (!input) return false;
    input.checked = true;
    input.focus({ preventScroll: true });
    input.dispatchEvent(new Event("input", { bubbles: true }));
    input.dispatchEvent(new Event("change", { bubbles: true }));
    return true;
  }
  function digit(key) {
    if (choosing) return void (pick("best", key) && say(key === "0" ? "Chosen: about the same." : `Chosen: Response ${key}.`));
    const high = Number(task.dataset.high), low = Number(task.dataset.low);
    const value = key === "0" && high === 10 && low > 0 ? 10 : Number(key);
    if (!pick(`q${mark + 1}`, value)) return say(`The scale goes from ${low} to ${high}.`, true);
    say(`Response ${mark + 1}: ${value}.`);
    if (mark + 1 < groups().length) moveTo(mark + 1); else showMark();
  }
  function toggle(selector, focused) {
    const details = $(selector);
    if (!details) return;
    details.open = !details.open;
    if (details.open && focused) $(focused, details)?.focus();
    else $("summary", details).focus();
  }
  const commands = {
    j: () => moveTo(choosing ? 0 : mark + 1), k: () => moveTo(choosing ? groups().length - 1 : mark - 1), b: choose,
    s: () => toggle("#skip", "button"), f: () => toggle("#flag", "input"), p: () => toggle("#prompt"), i: () => toggle("#instructions"),
    u: () => $("#edit-last")?.click(), r: () => $("#raw", task)?.click(), "?": () => $("#shortcuts")?.togglePopover(),
  };
  const typing = (target) => target.closest("textarea, select, [contenteditable], input:not([type=radio], [type=checkbox])");
  function pressed(event) {
    touch();
    if (event.key === "Escape") {
      for (const menu of all("details.menu[open]")) { menu.open = false; $("summary", menu).focus(); }
      if (choosing) { choosing = false; showMark(); }
      return;
    }
    if (!task || event.altKey || event.metaKey) return;
    if (event.key === "Enter" && event.ctrlKey) { event.preventDefault(); return void task.requestSubmit($("#submit")); }
    if (event.ctrlKey || typing(event.target)) return;
    if (event.key === "Enter") {
      // A radio would submit by itself; anywhere else Enter means the same, except on what has a meaning of its own.
      if (event.target.closest("a, button, summary, [popover]")) return;
      event.preventDefault();
      return void task.requestSubmit($("#submit"));
    }
    if (event.target.closest("[popover]") && event.key !== "?") return;
    if (read(KEYS) === "off" && event.key !== "?") return;
    const key = event.key.toLowerCase();
    if (/^\d$/.test(key)) digit(key);
    else if (key in commands && !event.repeat) commands[key]();
    else return;
    event.preventDefault();
    event.stopPropagation(); // studio.js would answer "?" a second time
  }
  function focused(event) {
    const column = event.target.closest?.(".column"), place = column ? all(".column", task).indexOf(column) : -1;
    if (place >= 0) { choosing = false; mark = place; showMark(); }
    else if (event.target.name === "best") { choosing = true; showMark(); }
  }

  // Start ------------------------------------------------------------------------------------------------------------
  function start() {
    forgetOldDrafts();
    const news = sessionStorage.getItem("rating-say");
    if (news) { say(news, true); sessionStorage.removeItem("rating-say"); }
    const form = $("#task");
    if (!form) return void $("#end h1, #feedback-title")?.focus();
    begin(form);
    const switched = $("#single-keys");
    if (switched) {
      switched.checked = read(KEYS) !== "off";
      switched.addEventListener("change", () => (switched.checked ? forget(KEYS) : write(KEYS, "off")));
    }
    ($("#problems") ?? $("#contradiction:not([hidden])") ?? $("#task-heading")).focus({ preventScroll: true });
    document.addEventListener("keydown", pressed, true);
    document.addEventListener("focusin", focused);
    for (const kind of ["pointerdown", "pointermove", "wheel", "touchstart", "scroll"]) addEventListener(kind, touch, { passive: true });
    for (const kind of ["focus", "blur"]) addEventListener(kind, count);
    document.addEventListener("visibilitychange", count);
    document.addEventListener("input", (event) => { touch(); if (event.target.form === task) { keepDraft(); tellAnswered(); } });
    addEventListener("online", () => flush().then(settled));
    addEventListener("pagehide", leave);
    count();
    setInterval(beat, BEAT);
    setInterval(tellLease, 1000);
    // Answers of an earlier page that had no connection go first.
    if (mine().length) flush().then(settled); else prefetch();
  }
  function leave() {
    if (!task || task.dataset.mode === "edit" || task.classList.contains("waits")) return;
    keepDraft();
    const values = beatValues();
    if (values.active_ms || values.drafted) navigator.sendBeacon(task.dataset.beat, new URLSearchParams({ ...values, csrfmiddlewaretoken: csrf() }));
  }
  document.addEventListener("DOMContentLoaded", start);
})();

// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// The page asks for the report, shows it, and says what there is to do when there is none.

import { LineChart, MemoryChart, windowOf } from "./charts.js";
import { clock, count, exact, plural, printable, rate, seconds, size, uptime } from "./format.js";
import { History, inUse } from "./history.js";
import { noticeOf } from "./notices.js";
import { tables as makeTables } from "./tables.js";

const $ = (id) => document.getElementById(id);
const meta = (name) => document.querySelector(`meta[name="${name}"]`).content;

const server = meta("weir-server");
const interval = Math.max(1000, Number(meta("weir-interval")) || 2000);
const slowest = 10_000; // milliseconds between two questions while there is no answer
const patience = 15_000; // milliseconds that an answer may take; the command gives up before

const history = new History();
const tables = makeTables($("t-readers"), $("t-clients"), $("t-resources"));
let active = tables.clients;
let charts = []; // made with the first report: until then the page has no width to fit them into
let minutes = 5;
let report = null; // the last one
let received = 0; // when it came, in milliseconds since 1970
let paused = false;
let failing = null; // {notice, since, tries, next} while there is no answer

// ---- asking

let timer = 0;
let asking = false;

async function ask() {
  clearTimeout(timer);
  if (asking || paused) return;
  asking = true;
  const began = Date.now();
  try {
    const answer = await once();
    if (answer.report) succeed(answer.report);
    else fail(answer.notice);
  } catch (err) { // of this page, then: it is said, and asked again
    console.error(err);
    fail(noticeOf({ kind: "unreadable", message: String(err) }, server));
  } finally {
    asking = false;
  }
  const wait = failing ? Math.min(slowest, interval * 2 ** Math.min(failing.tries - 1, 8)) : interval;
  const due = failing ? Date.now() + wait : Math.max(began + wait, Date.now() + 250);
  if (failing) failing.next = due;
  timer = setTimeout(ask, due - Date.now());
  tick();
}

// once returns {report} or {notice}.
async function once() {
  let response, text;
  try {
    response = await fetch("weir/status", { cache: "no-store", signal: AbortSignal.timeout(patience) });
    text = await response.text();
  } catch (err) {
    return { notice: noticeOf({ kind: "ended", message: String(err.message ?? err) }, server) };
  }
  let body = null;
  try {
    body = JSON.parse(text);
  } catch { /* what it is instead is told below */ }
  if (!response.ok) {
    return { notice: noticeOf({ kind: "refused", code: response.status, reason: body?.reason, message: body?.message ?? text }, server) };
  }
  const got = complete(body);
  return got ? { report: got } : { notice: noticeOf({ kind: "unreadable", message: text.slice(0, 200) }, server) };
}

// complete returns a report with what a server of another release may leave out, or null if it is none.
function complete(body) {
  const times = [Date.parse(body?.time), Date.parse(body?.started)];
  if (typeof body?.memory !== "object" || body.memory === null || times.some(Number.isNaN)) return null;
  return {
    ...body,
    time: times[0], started: times[1],
    memory: { liveBytes: 0, heapBytes: 0, totalBytes: 0, releasedBytes: 0, limitBytes: 0, ...body.memory, purposes: body.memory.purposes ?? [] },
    resources: body.resources ?? [], readers: body.readers ?? [], clients: body.clients ?? [],
    watching: body.watching ?? 0, etcdRevision: body.etcdRevision ?? 0,
  };
}

function succeed(next) {
  const first = report === null;
  if (failing) history.gap(Date.now() / 1000 - 0.001);
  failing = null;
  if (first) history.restore(next.started);
  const before = !first && report.started === next.started && next.time > report.time ? report : null;
  if (!first && report.started !== next.started) history.gap(Date.now() / 1000 - 0.001); // another run, or another server
  const rates = ratesOf(before, next);
  report = next;
  received = Date.now();
  history.add(received / 1000, report, rates.all);
  $("notice").hidden = true;
  document.querySelector("main").hidden = false;
  if (first) makeCharts();
  showFigures(rates);
  showCharts();
  tables.readers.update(report.readers);
  tables.clients.update(report.clients.map((c) => ({ ...c, rate: rates.of(c) })));
  tables.resources.update(report.resources);
  document.body.dataset.reports = String(Number(document.body.dataset.reports ?? 0) + 1);
}

// ratesOf returns the bytes per second since an earlier report of the same run, null where there is none.
function ratesOf(before, next) {
  if (!before) return { all: null, of: () => null };
  const key = (c) => JSON.stringify([c.user, c.userAgent, c.others ?? false]);
  const sum = (r) => r.clients.reduce((n, c) => n + c.bytes, 0);
  const passed = (next.time - before.time) / 1000;
  const old = new Map(before.clients.map((c) => [key(c), c.bytes]));
  return {
    all: Math.max(0, sum(next) - sum(before)) / passed,
    of: (c) => Math.max(0, c.bytes - (old.get(key(c)) ?? 0)) / passed,
  };
}

function fail(notice) {
  if (!failing) history.gap(Date.now() / 1000);
  failing = { notice, since: failing?.since ?? Date.now(), tries: (failing?.tries ?? 0) + 1, next: 0 };
  $("notice-title").textContent = notice.title;
  $("notice-text").textContent = notice.text;
  $("notice-advice").textContent = notice.advice;
  $("notice-code").textContent = notice.code ?? "";
  $("notice-code").hidden = !notice.code;
  $("notice").hidden = false;
}

// ---- showing

function showFigures(rates) {
  const { memory, resources, clients, readers } = report;
  const set = (id, text, title = "") => {
    $(id).textContent = text;
    $(id).title = title;
  };
  $("build").textContent = `${printable(report.build?.version ?? "?")} · Kubernetes ${printable(report.kubernetes ?? "?")}`;

  const used = inUse(memory);
  set("f-memory", size(used), `${exact(used)} bytes`);
  const part = memory.limitBytes ? used / memory.limitBytes : 0;
  $("f-memory-bar").hidden = !memory.limitBytes;
  $("f-memory-bar").firstChild.style.width = `${Math.min(100, part * 100).toFixed(1)}%`;
  $("f-memory-bar").classList.toggle("warns", part > 0.9);
  set("f-memory-note", memory.limitBytes ? `${(part * 100).toFixed(0)}% of the limit of ${size(memory.limitBytes)}` : "no limit is set",
    memory.limitBytes ? `${exact(memory.limitBytes)} bytes, of the Go runtime` : "--memory-limit, or that of the control group, sets one");

  const ready = resources.filter((r) => r.ready);
  const objects = ready.reduce((n, r) => n + r.objects, 0);
  const bytes = ready.reduce((n, r) => n + r.bytes, 0);
  set("f-objects", count(objects), exact(objects));
  const unread = resources.length - ready.length;
  set("f-objects-note", unread ? `${size(bytes)}; ${plural(unread, "resource")} not read` : `${size(bytes)} in ${plural(ready.length, "resource")}`, `${exact(bytes)} bytes`);
  $("f-objects-note").classList.toggle("warns", unread > 0);

  set("f-watches", count(report.watching), exact(report.watching));
  const slow = readers.reduce((n, r) => Math.max(n, r.seconds), 0);
  set("f-watches-note", slow > 0 ? `slowest ${seconds(slow)} behind` : "all have been sent everything");
  $("f-watches-note").classList.toggle("warns", slow > 30);

  const sent = clients.reduce((n, c) => n + c.bytes, 0);
  set("f-sent", rate(rates.all));
  set("f-sent-note", `${size(sent)} in ${uptime((report.time - report.started) / 1000)}`, `${exact(sent)} bytes since ${new Date(report.started).toISOString()}`);

  const lists = clients.reduce((n, c) => n + c.lists, 0);
  const decoded = clients.reduce((n, c) => n + c.listsDecoded, 0);
  const watchLists = clients.reduce((n, c) => n + c.watchLists, 0);
  set("f-lists", count(lists), exact(lists));
  set("f-lists-note", `${count(decoded)} decoded`, `${plural(watchLists, "watch list")} beside them`);

  const behind = ready.reduce((n, r) => Math.max(n, r.behind), 0);
  set("f-behind", report.etcdError ? "?" : count(behind), report.etcdError ? "" : `${exact(behind)} revisions`);
  set("f-behind-note", report.etcdError ? printable(report.etcdError) : `etcd at revision ${exact(report.etcdRevision)}`);
  $("f-behind-note").classList.toggle("warns", Boolean(report.etcdError));
}

function makeCharts() {
  charts = [
    new MemoryChart($("c-memory")),
    new LineChart($("c-sent"), {
      label: "Bytes sent per second", property: "--c-sent", of: (s) => s.rate, text: rate, axis: (v) => (v === 0 ? "0" : rate(v)), least: 1000,
    }),
    new LineChart($("c-watches"), { label: "Watches open", property: "--c-watches", of: (s) => s.watching, text: count, axis: count, least: 1 }),
  ];
}

function showCharts() {
  const window = windowOf(history, minutes);
  for (const chart of charts) chart.update(history, window);
}

// tick says what changes by the clock alone.
function tick() {
  const state = failing ? "failing" : paused ? "paused" : report ? "live" : "waiting";
  $("state").dataset.state = state;
  document.body.classList.toggle("stale", state === "failing");
  $("state-text").textContent = {
    failing: report ? `as of ${clock(received)}` : "no answer",
    paused: report ? `paused at ${clock(received)}` : "paused",
    live: `${clock(received)}`,
    waiting: "asking",
  }[state];
  if (failing) {
    const wait = Math.max(0, Math.ceil((failing.next - Date.now()) / 1000));
    $("notice-time").textContent = `Since ${clock(failing.since)} (${uptime((Date.now() - failing.since) / 1000)}). ` +
      (paused ? "Paused." : asking || wait === 0 ? "Asking again." : `Asking again in ${wait} s.`);
  }
}
setInterval(tick, 1000);

// ---- keys and buttons

function setPaused(on) {
  paused = on;
  $("pause").setAttribute("aria-pressed", String(on));
  $("pause").textContent = on ? "Go on" : "Pause";
  if (on) clearTimeout(timer);
  else ask();
  tick();
}

function showTheme() {
  const choice = document.documentElement.dataset.choice;
  $("theme").textContent = { system: "Auto", dark: "Dark", light: "Light" }[choice];
  $("theme").setAttribute("aria-label", `Theme: ${choice}`);
}

function activate(table) {
  active = table;
  for (const t of Object.values(tables)) t.section.classList.toggle("active", t === table);
}

function setFilter(text) {
  for (const t of Object.values(tables)) t.setFilter(text);
}

$("pause").addEventListener("click", () => setPaused(!paused));
$("theme").addEventListener("click", () => document.dispatchEvent(new CustomEvent("next-theme")));
$("help-open").addEventListener("click", () => $("help").showModal());
$("filter").addEventListener("input", () => setFilter($("filter").value));
$("ranges").addEventListener("click", (event) => {
  const chosen = event.target.closest("button");
  if (!chosen) return;
  minutes = Number(chosen.dataset.minutes);
  for (const b of $("ranges").children) b.setAttribute("aria-pressed", String(b === chosen));
  showCharts();
});
document.addEventListener("theme", () => {
  showTheme();
  for (const chart of charts) chart.theme();
});
for (const t of Object.values(tables)) {
  t.section.addEventListener("focusin", () => activate(t));
  t.section.addEventListener("pointerdown", () => activate(t));
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) ask();
});
addEventListener("pagehide", () => {
  if (report) history.keep(report.started);
});

const keys = {
  "/": () => {
    $("filter").focus();
    $("filter").select();
  },
  "?": () => $("help").showModal(),
  p: () => setPaused(!paused),
  t: () => document.dispatchEvent(new CustomEvent("next-theme")),
  s: () => active.nextSort(),
  r: () => active.reverse(),
  a: () => active.toggleAll(),
  j: () => active.move(1),
  k: () => active.move(-1),
  ArrowDown: () => active.move(1),
  ArrowUp: () => active.move(-1),
  1: () => go(tables.readers),
  2: () => go(tables.clients),
  3: () => go(tables.resources),
  Escape: () => {
    $("filter").value = "";
    setFilter("");
  },
};

function go(table) {
  activate(table);
  table.section.scrollIntoView({ block: "start" });
  table.shown[0]?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || $("help").open) return;
  if (event.target === $("filter")) {
    if (event.key === "Escape") keys.Escape();
    if (["Escape", "Enter", "ArrowDown"].includes(event.key)) {
      event.preventDefault();
      $("filter").blur();
      if (event.key !== "Escape") active.move(1);
    }
    return;
  }
  const act = Object.hasOwn(keys, event.key) && keys[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

showTheme();
activate(active);
tick();
ask();

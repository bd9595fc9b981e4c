// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// What the charts show: samples of the reports, of the last two hours.

const longest = 2 * 3600; // seconds

// The parts of memory that are not the cache's and the streams'.
export const otherHeap = "other heap";
export const runtime = "runtime";

// parts returns what memory is made of, by name: what it adds up to is what counts against the limit. Purposes may be more than the
// heap has (decoded objects are estimated): then nothing is left for the rest.
export function parts(memory) {
  const of = Object.create(null); // a name may be anything
  let sum = 0;
  for (const p of memory.purposes) {
    of[p.name] = p.bytes;
    sum += p.bytes;
  }
  of[otherHeap] = Math.max(0, memory.heapBytes - sum);
  of[runtime] = Math.max(0, inUse(memory) - Math.max(memory.heapBytes, sum));
  return of;
}

// inUse is what the Go runtime holds, which is what its limit is about.
export function inUse(memory) {
  return memory.totalBytes - memory.releasedBytes;
}

export class History {
  constructor() {
    this.samples = []; // {t, parts, limit, watching, rate}; a gap is one of {t} alone
  }

  // add takes a report that came at t, in seconds, and the bytes per second since the one before, or null.
  add(t, report, rate) {
    this.push({ t, parts: parts(report.memory), limit: report.memory.limitBytes || null, watching: report.watching, rate });
  }

  // gap says that from here on something is not known.
  gap(t) {
    if (this.samples.length && this.samples.at(-1).parts) this.push({ t });
  }

  push(sample) {
    const last = this.samples.at(-1);
    if (last && sample.t <= last.t) {
      if (last.t - sample.t > 60) this.samples = []; // the clock was put back
      else return;
    }
    this.samples.push(sample);
    let old = 0;
    while (this.samples[old].t < sample.t - longest) old++;
    if (old > 100) this.samples.splice(0, old);
  }

  names() {
    const all = new Set();
    for (const s of this.samples) for (const name in s.parts) all.add(name);
    return [...all].sort((a, b) => rank(a) - rank(b)); // stable: the others as they came
  }

  column(of) {
    return this.samples.map((s) => (s.parts ? of(s) : null));
  }

  // keep and restore carry it over a reload of the page.
  keep(started) {
    try {
      sessionStorage.setItem("weir-history", JSON.stringify({ started, samples: this.samples }));
    } catch { /* then it begins anew */ }
  }

  restore(started) {
    try {
      const kept = JSON.parse(sessionStorage.getItem("weir-history"));
      if (kept?.started !== started || !Array.isArray(kept.samples)) return;
      const now = Date.now() / 1000;
      this.samples = kept.samples.filter((s) => s.t <= now && s.t > now - longest);
      this.gap(now - 0.001);
    } catch { /* what was kept is not what this keeps */ }
  }
}

function rank(name) {
  return name === runtime ? 2 : name === otherHeap ? 1 : 0;
}

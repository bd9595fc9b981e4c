// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// How numbers and names become text. What sizes look like is what `weir status` shows (internal/status/view).

const grouped = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

// exact returns all digits of a number, in groups.
export function exact(n) {
  return grouped.format(n);
}

// size returns a number of bytes in three digits or so.
export function size(n) {
  if (n < 1000) return `${Math.round(n)} B`;
  let f = n, unit = "";
  for (unit of ["kB", "MB", "GB", "TB"]) {
    f /= 1000;
    if (f < 999.5) break;
  }
  return `${f < 9.95 ? f.toFixed(1) : f.toFixed(0)} ${unit}`;
}

export function rate(n) {
  return n === null ? "–" : `${size(n)}/s`;
}

// count returns a number in full as long as it is not very large.
export function count(n) {
  if (n < 10_000_000) return grouped.format(n);
  return n < 1e9 ? `${(n / 1e6).toFixed(1)}M` : `${(n / 1e9).toFixed(1)}G`;
}

// seconds returns an age.
export function seconds(s) {
  if (s === 0) return "–";
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 600) return `${Math.round(s)} s`;
  if (s < 36_000) return `${Math.round(s / 60)} min`;
  return s < 172_800 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86_400)} d`;
}

// uptime returns a longer time in two units.
export function uptime(s) {
  const days = Math.floor(s / 86_400), hours = Math.floor(s / 3600) % 24, minutes = Math.floor(s / 60) % 60;
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${Math.floor(s) % 60} s` : `${Math.floor(s)} s`;
}

export function plural(n, one, many = one + "s") {
  return `${count(n)} ${n === 1 ? one : many}`;
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minute = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

// clock returns the time of day of milliseconds since 1970, here.
export function clock(ms) {
  return time.format(ms);
}

export function clockMinutes(ms) {
  return minute.format(ms);
}

// printable returns what somebody else has written so that it can be read: what is no letter, number, punctuation, symbol or
// plain space is escaped. It then neither turns the direction of what stands beside it nor hides anything.
export function printable(s) {
  return String(s).replace(/[^\p{L}\p{N}\p{P}\p{S} ]|\ufffd/gu, (c) => {
    const code = c.codePointAt(0);
    return code > 0xffff ? `\\U${code.toString(16).padStart(8, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
  });
}

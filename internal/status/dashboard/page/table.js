// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

import { printable } from "./format.js";

// A Column is {id, title, about, value, text, exact, share}: value(row) is what is sorted by, a number or a string; text(row) what is
// shown, exact(row) all of it, for the pointer. share: its part of the column's largest is drawn behind it. A column
// is one of text if its `text` is left out: value is shown then, escaped.

// Table shows rows that are replaced every few seconds. Rows are known by their key, so that where the reader is in them is kept.
export class Table {
  // options: {title, about, columns, key(row), search(row), important(row, rank), remark(row), more(n), empty, sort, last(row)}
  constructor(section, options) {
    Object.assign(this, options);
    this.section = section;
    this.rows = [];
    this.shown = [];
    this.lines = new Map(); // key → {tr, cells}
    this.filter = "";
    this.all = false;
    this.build();
  }

  build() {
    const { section } = this;
    const id = `${section.id}-title`;
    section.setAttribute("aria-labelledby", id);
    const head = element("div", "table-head");
    const h2 = element("h2", "", this.title);
    h2.id = id;
    this.counted = element("span", "counted");
    head.append(h2, this.counted, element("p", "about", this.about));

    // What is wider than the page is scrolled by itself; so that keys can do that, it takes the focus.
    this.scroller = element("div", "scroller");
    this.scroller.tabIndex = 0;
    this.scroller.setAttribute("role", "region");
    this.scroller.setAttribute("aria-labelledby", id);
    this.table = element("table");
    const tr = element("tr");
    this.headers = this.columns.map((column) => {
      const th = element("th", isText(column) ? "text" : "number");
      th.scope = "col";
      const button = element("button", "", column.title);
      button.type = "button";
      if (column.about) button.title = column.about;
      button.addEventListener("click", () => this.sortBy(column.id));
      th.append(button);
      tr.append(th);
      return th;
    });
    const thead = element("thead");
    thead.append(tr);
    this.body = element("tbody");
    this.table.append(thead, this.body);
    this.scroller.append(this.table);
    this.note = element("p", "empty");
    this.toggle = element("button", "more");
    this.toggle.type = "button";
    this.toggle.addEventListener("click", () => this.toggleAll());
    section.replaceChildren(head, this.scroller, this.note, this.toggle);
  }

  update(rows) {
    this.rows = rows;
    this.draw();
  }

  setFilter(text) {
    this.filter = text.trim().toLowerCase();
    this.draw();
  }

  toggleAll() {
    this.all = !this.all;
    this.draw();
  }

  // sortBy sorts by a column, or turns the order round if that is what it is sorted by.
  sortBy(id) {
    const column = this.columns.find((c) => c.id === id);
    this.sort = id === this.sort.id ? { id, down: !this.sort.down } : { id, down: !isText(column) };
    this.draw();
  }

  nextSort() {
    const i = this.columns.findIndex((c) => c.id === this.sort.id);
    this.sortBy(this.columns[(i + 1) % this.columns.length].id);
  }

  reverse() {
    this.sortBy(this.sort.id);
  }

  // sorted returns the rows in order; those that are equal in the order in which they came.
  sorted() {
    const { value } = this.columns.find((c) => c.id === this.sort.id);
    const sign = this.sort.down ? -1 : 1;
    const last = this.last ?? (() => false);
    return this.rows.map((row, i) => ({ row, i, value: value(row) })).sort((a, b) =>
      last(a.row) - last(b.row) || sign * compare(a.value, b.value) || a.i - b.i).map(({ row }) => row);
  }

  draw() {
    const all = this.sorted();
    let shown = all;
    if (this.filter) {
      shown = all.filter((row) => this.search(row).toLowerCase().includes(this.filter));
    } else if (!this.all) {
      shown = all.filter((row, rank) => this.important(row, rank));
    }
    const largest = this.columns.map((c) => (c.share ? Math.max(0, ...shown.map((row) => c.value(row) ?? 0)) : 0));
    const old = this.lines;
    this.lines = new Map();
    let before = null;
    for (const row of shown) {
      let key = this.key(row);
      while (this.lines.has(key)) key += "\u0000"; // two of one name are two rows
      const line = old.get(key) ?? this.line();
      old.delete(key);
      this.fill(line, row, largest);
      this.lines.set(key, line);
      const place = before ? before.nextSibling : this.body.firstChild;
      if (place !== line.tr) this.body.insertBefore(line.tr, place);
      before = line.tr;
    }
    const lost = [...old.values()].find((line) => line.tr === document.activeElement);
    for (const line of old.values()) line.tr.remove();
    if (lost) (before ?? this.scroller).focus();
    this.shown = [...this.lines.values()].map((line) => line.tr);

    this.columns.forEach((c, i) => {
      this.headers[i].ariaSort = c.id !== this.sort.id ? null : this.sort.down ? "descending" : "ascending";
    });
    this.counted.textContent = shown.length === all.length ? String(all.length) : `${shown.length} of ${all.length}`;
    this.scroller.hidden = shown.length === 0;
    this.note.hidden = shown.length > 0;
    this.note.textContent = this.filter ? "None of them matches the filter." : this.empty;
    const left = all.filter((row, rank) => !this.important(row, rank)).length;
    this.toggle.hidden = left === 0 || this.filter !== "";
    this.toggle.textContent = this.all ? "Show the most important" : this.more(left);
  }

  line() {
    const tr = element("tr");
    tr.tabIndex = -1;
    const cells = this.columns.map((column, i) => {
      const cell = element(i === 0 ? "th" : "td", isText(column) ? "text" : "number");
      if (i === 0) cell.scope = "row";
      tr.append(cell);
      return cell;
    });
    const remark = element("td", "remark");
    remark.colSpan = this.columns.length - 1;
    return { tr, cells, remark };
  }

  fill({ tr, cells, remark }, row, largest) {
    const instead = this.remark?.(row) ?? null;
    const wanted = instead === null ? cells : [cells[0], remark];
    if (tr.lastChild !== wanted.at(-1)) tr.replaceChildren(...wanted);
    if (instead !== null) put(remark, printable(instead), printable(instead));
    this.columns.forEach((column, i) => {
      const cell = cells[i];
      if (isText(column)) {
        const text = printable(column.value(row));
        put(cell, text, text);
        return;
      }
      put(cell, column.text(row), column.exact?.(row) ?? "");
      if (column.share) {
        const part = largest[i] ? (column.value(row) ?? 0) / largest[i] : 0;
        cell.style.setProperty("--part", part.toFixed(3));
        cell.classList.add("share");
      }
      cell.classList.toggle("zero", column.value(row) === 0);
      if (column.warns) cell.classList.toggle("warns", column.warns(row));
    });
  }

  // move takes the focus to the next row or the one before.
  move(by) {
    if (this.shown.length === 0) {
      this.section.scrollIntoView({ block: "nearest" });
      return;
    }
    const at = this.shown.indexOf(document.activeElement);
    const next = at < 0 ? (by > 0 ? 0 : this.shown.length - 1) : Math.min(this.shown.length - 1, Math.max(0, at + by));
    this.shown[next].focus();
    this.shown[next].scrollIntoView({ block: "nearest" });
  }
}

function isText(column) {
  return column.text === undefined;
}

function compare(a, b) {
  if (typeof a === "string") return a < b ? -1 : a > b ? 1 : 0;
  return (a ?? -1) - (b ?? -1);
}

function put(cell, text, title) {
  if (cell.textContent !== text) cell.textContent = text;
  if (cell.title !== title) cell.title = title;
}

export function element(name, className = "", text = "") {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
}

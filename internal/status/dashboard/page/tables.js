// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// The three tables of the page. What their columns mean is in docs/operate.md.

import { count, exact, plural, rate, seconds, size } from "./format.js";
import { Table } from "./table.js";

const fewClients = 20; // of which are shown, as `weir status` does

const number = (id, title, about, of = (row) => row[id]) => ({ id, title, about, value: of, text: (row) => count(of(row)), exact: (row) => exact(of(row)) });
const bytes = (id, title, about, of = (row) => row[id]) => ({
  id, title, about, value: of,
  text: (row) => (of(row) === null ? "–" : size(of(row))),
  exact: (row) => (of(row) === null ? "" : `${exact(of(row))} bytes`),
});
const age = (id, title, about, of = (row) => row[id]) => ({ id, title, about, value: of, text: (row) => seconds(of(row)), exact: (row) => `${of(row)} s` });
const text = (id, title, about, value = (row) => row[id] ?? "") => ({ id, title, about, value });

export function tables(readers, clients, resources) {
  return {
    readers: new Table(readers, {
      title: "Slowest readers",
      about: "Watches that have events to read which they have not taken",
      columns: [
        text("resource", "Resource"),
        text("of", "Of", "Namespace and name that it is on", (r) => [r.namespace, r.name].filter(Boolean).join("/") || "all"),
        text("userAgent", "User agent", "What the client calls itself"),
        text("user", "User"),
        number("events", "Events", "That it has yet to read"),
        { ...age("seconds", "Waiting", "How old the first of them is"), share: true, warns: (r) => r.seconds > 30 },
        bytes("bytes", "Sent", "What its connection has taken since it was opened"),
      ],
      sort: { id: "seconds", down: true },
      key: (r) => JSON.stringify([r.resource, r.namespace, r.name, r.user, r.userAgent]),
      search: (r) => [r.resource, r.namespace, r.name, r.user, r.userAgent].join(" "),
      important: () => true,
      more: () => "",
      empty: "None: all watches have been sent everything.",
    }),
    clients: new Table(clients, {
      title: "Who asks for what",
      about: "Since the server started",
      columns: [
        text("userAgent", "User agent", "What the client calls itself", (c) => (c.others ? "others" : c.userAgent)),
        text("user", "User", "Nodes are together", (c) => (c.others ? "" : c.user)),
        number("lists", "Lists", "Plain lists. A client with lists and no watch lists has not opted in to those"),
        { ...number("listsDecoded", "Decoded", "Lists that could not be sent from encoded objects"), warns: (c) => c.listsDecoded > 0 && c.listsDecoded > c.lists / 2 },
        number("watchLists", "Watch lists", "Watches that began with the objects"),
        number("watches", "Watches", "Other watches"),
        number("watching", "Open", "Watches that are open now"),
        number("otherRequests", "Other", "Requests that are neither lists nor watches"),
        number("compressed", "Gzip", "Lists and watches that were compressed"),
        bytes("bytes", "Sent", "Bytes of lists and watches, as they went out"),
        { ...bytes("rate", "Sent/s", "Between the last two reports"), text: (c) => rate(c.rate), exact: (c) => (c.rate === null ? "" : `${exact(c.rate)} bytes per second`), share: true },
        number("seats", "Seats", "What flow control has charged for its lists and watches"),
      ],
      sort: { id: "bytes", down: true },
      key: (c) => JSON.stringify([c.user, c.userAgent, c.others ?? false]),
      search: (c) => (c.others ? "others" : `${c.user} ${c.userAgent}`),
      last: (c) => Boolean(c.others),
      important: (c, rank) => rank < fewClients || Boolean(c.others),
      more: (n) => `Show ${count(n)} more`,
      empty: "Nobody has asked for anything yet.",
    }),
    resources: new Table(resources, {
      title: "Resources",
      about: "What is kept of each, once",
      columns: [
        text("name", "Resource"),
        number("objects", "Objects", ""),
        { ...bytes("bytes", "Bytes", "As they are kept"), share: true },
        bytes("each", "Each", "Bytes of an object", (r) => (r.objects ? r.bytes / r.objects : null)),
        number("watches", "Watches", "That are open"),
        number("events", "Events", "Of the past that are kept, so that watches can come back", (r) => r.history?.events ?? 0),
        bytes("history", "History", "Bytes of these events", (r) => r.history?.bytes ?? 0),
        age("age", "Age", "How old the oldest of them is", (r) => r.history?.seconds ?? 0),
        { ...number("behind", "Behind", "Revisions that etcd has and the cache has not"), warns: (r) => r.behind > 0 },
      ],
      sort: { id: "bytes", down: true },
      key: (r) => r.name,
      search: (r) => r.name,
      remark: (r) => (r.ready ? null : r.error || "not read yet"),
      // The server itself watches many that nobody has made anything of.
      important: (r) => !r.ready || r.objects > 0 || r.watches > 1 || (r.history?.events ?? 0) > 0 || r.behind > 0,
      more: (n) => `Show ${plural(n, "resource")} without objects`,
      empty: "No resource is cached.",
    }),
  };
}

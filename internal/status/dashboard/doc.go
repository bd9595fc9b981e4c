// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package dashboard is `weir dashboard`: a page for a browser that shows a server's status over time, and the local server that
// the page comes from.
//
//	browser ──▶ http://127.0.0.1:PORT/KEY/             page/, embedded
//	        ──▶ http://127.0.0.1:PORT/KEY/weir/status ──▶ package source ──▶ /weir/status of the API server
//
// Nothing else of the API server can be reached by it, and that by GET only: it speaks with the rights of whoever has started it.
// Three things keep others out. KEY is random, made anew at each start, and known to those who can read the terminal: loopback is shared
// by all users of a machine. The Host header has to be an address or localhost, so that no name that somebody else has pointed at
// 127.0.0.1 makes a page of his one that may read this. And no answer allows another origin to read it.
//
// Names of users, user agents and resources are what clients have called themselves. They become text of the page, never markup: the
// Content-Security-Policy has the browser refuse scripts of others and, by Trusted Types, every assignment of markup at all.
//
// The page is plain modules and a style sheet, without a build. Its charts are uPlot's (page/uplot/README.md).
package dashboard

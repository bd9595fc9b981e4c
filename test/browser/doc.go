// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package browser puts the page of `weir dashboard` before Chromium, which is driven by the DevTools protocol: that its numbers are the
// report's, that what clients call themselves is text, that it fits a phone and a wall, is dark and light, obeys keys, and says what is
// wrong when there is no report.
//
//	Chromium ──▶ weir dashboard, a process of its own ──▶ a server that answers /weir/status as a test wants it
//
// It is a module of its own, so that the driver of the browser is none of weir's dependencies. It therefore does not import weir: the
// command is the test binary of internal/status/dashboard, which go test -c builds. Without Chromium the tests are skipped. WEIR_CHROMIUM
// names one that is not found by itself, and WEIR_SHOTS a directory that pictures of the page are left in.
package browser

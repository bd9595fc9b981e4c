// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package view is `weir status`: it reads a server's status by its API and shows it, as tables, as JSON or YAML, or as a view that
// goes on.
//
// Names and user agents are what clients have called themselves, so nothing of them goes to the terminal that could do more
// than be read; see printable.
package view

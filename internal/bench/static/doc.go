// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package static is the physical floor of lists and watch lists: a Go HTTP/2 server with TLS that writes, from memory, the
// bytes that a real target sent, compressed where that one compressed them. No server that uses Go's HTTP/2 and TLS can do with less processor time.
//
//	a real server ====> Recording.Save ---> a file for each path and format ---> internal-static ====> readers
package static

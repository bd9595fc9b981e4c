// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package rig starts real servers: etcd and kube-apiservers as processes of their own, so that they can be killed, stopped
// and limited, and what they use be told from what their clients use. It is what "weir bench", the tests that compare with
// upstream, and the tests with faults stand on.
//
//	Room: a directory, an administrator, an authority; Close stops all
//	  |
//	  |-- Etcd                                       StartEtcd
//	  |     |-- Member 1 -- PeerProxy -- Member 2        this program again, as internal-etcd
//	  |     |
//	  |   (an address in between)
//	  |     |
//	  |-- Server   weir, weir with its gates off, stock   StartServer(Program)
//	  |     |      in a control group, with MemoryLimit      this program again, as internal-limited, which becomes the server
//	  |   (an address in between)                        Server.Behind
//	  |     |
//	  |   Admin: Get, Metrics, RESTConfig, HTTPClient
//	  |
//	  every Member and Server is a Process: Stop, Kill, Pause, Resume, Restart, Died, Usage, Log
//
// Every process dies with this one (on Linux), is waited for, and writes its log to a file. What it was started with it is
// started again with: the same addresses, the same data.
//
// What stands in between can be a Link of internal/rig/link, on which faults happen.
//
// The package knows a kube-apiserver by its flags and its HTTP only: it imports nothing of weir. The program that it is part
// of has Commands among its own; a test binary calls Execute when it is started as one of them.
package rig

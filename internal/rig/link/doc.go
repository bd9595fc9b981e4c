// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package link puts a TCP proxy between a client and a server, on which faults happen: the proxy of
// github.com/Shopify/toxiproxy, in this process.
//
//	client ---> Address | Cut, Delay, Throttle, Stall, Lose | ---> server
//
// One Link for each client of a server has faults that only that client sees. Heal takes all of them away.
package link

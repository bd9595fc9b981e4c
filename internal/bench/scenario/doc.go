// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package scenario is what is measured: named runs of phases against one started target.
//
//	Setup.Measure(Scenario, Server) ---> report.TargetRun
//	   |
//	session --- phase: wait until the server is idle, take a sample, do, take a sample
//	   |          |
//	   |          '-- clients go, and are heard when they are done
//	   '------- sampler: memory and processor time of the server, all along
//
//	Start     what a server holds after its start          Watchers  many watches, nothing happens
//	Read      many lists or watch lists at once            Fanout    every update to every watcher
//	Storm     the same while the server starts             Writes    writes per second
//	Informers client-go's informers                        Stalled   watches that nobody reads
//	Memory    start, rest, reads in every form, rest
//
// A phase is one measured stretch: the server's processor seconds, wall time, its memory before, peak and after, and the
// figures that the scenario finds by itself. It begins when the server is idle, so that it does not pay for what came before.
//
// What a process of this machine uses is read from /proc, and so needs Linux; of an existing cluster, from its /metrics.
package scenario

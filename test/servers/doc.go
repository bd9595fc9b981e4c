// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

// Package servers runs API servers for tests, upstream's and weir's, each in a process
// of its own: feature gates and metrics belong to the process, and stock is to be what
// it is without weir. The processes are the test binary itself:
//
//	func TestMain(m *testing.M) { servers.Main(m) }
//
//	func TestX(t *testing.T) {
//		endpoint := etcd.Run(t).Endpoints()[0]
//		stock := servers.Start(t, servers.Stock, endpoint).Wait()
//		weir := servers.Start(t, servers.Weir, endpoint).Wait()
//		want, err := stock.Answer(t.Context(), request)
//		got, err := weir.Answer(t.Context(), request)
//	}
//
// What more is wanted of servers (several over one etcd of several members, killed,
// paused, limited, behind a link) is had in a Room, of internal/rig:
//
//	room := servers.Room(t)
//	etcd, err := room.StartEtcd(ctx, rig.EtcdOptions{Members: 3})
//	program := servers.Program(servers.Weir)
//	program.Etcd = etcd.Endpoints()
//	weir := servers.StartIn(t, room, program).Wait()
//	weir.Rig.Kill()
package servers

// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package known

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// tap stands between a server and etcd, and can change what etcd's watches say: so an etcd of today has the faults of one
// of yesterday. All else, and everything without a lie, passes as it is.
type tap struct {
	address string
	conn    *grpc.ClientConn

	mu      sync.Mutex
	lie     lie
	streams map[*tapped]struct{}
}

// lie is given what etcd says to the watch of a key, in order for each watch, and returns what the server is told. It may
// wait. The key is empty for what is said to all watches of a connection.
type lie func(key string, r *etcdserverpb.WatchResponse) []*etcdserverpb.WatchResponse

// tapped is one stream of watches.
type tapped struct {
	down grpc.ServerStream

	mu sync.Mutex
	// pending are the keys of watches that are asked for, in their order; keys those of the watches that there are.
	pending []string
	keys    map[int64]string
}

// newTap starts one in front of a member at host:port. It ends with the test.
func newTap(t testing.TB, member string) *tap {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+member, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{address: listener.Addr().String(), conn: conn, streams: map[*tapped]struct{}{}}
	server := grpc.NewServer(grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(p.serve),
		grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}))
	var running sync.WaitGroup
	running.Go(func() {
		if err := server.Serve(listener); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		running.Wait()
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// tell sets what is told from now on; nil for the truth.
func (p *tap) tell(l lie) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lie = l
}

func (p *tap) lies() lie {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lie
}

// say tells something to every watch of a key, and returns how many there are.
func (p *tap) say(key string, r *etcdserverpb.WatchResponse) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for s := range p.streams {
		s.mu.Lock()
		for id, of := range s.keys {
			if of != key {
				continue
			}
			own := proto.Clone(r).(*etcdserverpb.WatchResponse)
			own.WatchId = id
			if err := s.sendLocked(own); err != nil {
				s.mu.Unlock()
				return n, err
			}
			n++
		}
		s.mu.Unlock()
	}
	return n, nil
}

// serve passes one call on.
func (p *tap) serve(_ any, down grpc.ServerStream) error {
	method, ok := grpc.MethodFromServerStream(down)
	if !ok {
		return errors.New("a call without a method")
	}
	ctx := down.Context()
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	up, err := p.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	var s *tapped
	if method == "/etcdserverpb.Watch/Watch" {
		s = &tapped{down: down, keys: map[int64]string{}}
		p.mu.Lock()
		p.streams[s] = struct{}{}
		p.mu.Unlock()
		defer func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			delete(p.streams, s)
		}()
	}
	go func() { // ends with the call
		for {
			var message []byte
			err := down.RecvMsg(&message)
			if err == nil {
				err = s.asked(message)
			}
			if err == nil {
				err = up.SendMsg(&message)
			}
			if err != nil {
				_ = up.CloseSend() // always nil
				return
			}
		}
	}()
	for {
		var message []byte
		if err := up.RecvMsg(&message); err != nil {
			down.SetTrailer(up.Trailer())
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if s == nil {
			err = down.SendMsg(&message)
		} else {
			err = s.told(message, p.lies())
		}
		if err != nil {
			return err
		}
	}
}

// asked notes the key of a watch that is asked for.
func (s *tapped) asked(message []byte) error {
	if s == nil {
		return nil
	}
	var r etcdserverpb.WatchRequest
	if err := proto.Unmarshal(message, &r); err != nil {
		return err
	}
	if create := r.GetCreateRequest(); create != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.pending = append(s.pending, string(create.GetKey()))
	}
	return nil
}

// told passes on what etcd says, or what is told in its place.
func (s *tapped) told(message []byte, l lie) error {
	var r etcdserverpb.WatchResponse
	if err := proto.Unmarshal(message, &r); err != nil {
		return err
	}
	s.mu.Lock()
	if r.Created && len(s.pending) > 0 {
		s.keys[r.WatchId] = s.pending[0]
		s.pending = s.pending[1:]
	}
	key := s.keys[r.WatchId]
	s.mu.Unlock()
	all := []*etcdserverpb.WatchResponse{&r}
	if l != nil && !r.Created && !r.Canceled {
		all = l(key, &r) // not under the lock: it may wait
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range all {
		if err := s.sendLocked(r); err != nil {
			return err
		}
	}
	return nil
}

func (s *tapped) sendLocked(r *etcdserverpb.WatchResponse) error {
	message, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	if r.Canceled {
		delete(s.keys, r.WatchId)
	}
	return s.down.SendMsg(&message)
}

// raw has messages pass as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) ([]byte, error) {
	message, ok := v.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("a message of type %T", v)
	}
	return *message, nil
}

func (raw) Unmarshal(data []byte, v any) error {
	message, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("a message of type %T", v)
	}
	*message = bytes.Clone(data)
	return nil
}

// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package etcd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/version"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/storage/schema"
	"go.uber.org/zap"
)

func connect(t *testing.T, e *Embedded) *clientv3.Client {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{e.Endpoint()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func TestEmbeddedKeepsData(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	for round := range 2 {
		e, err := Start(t.Context(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		client := connect(t, e)
		got, err := client.Get(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Kvs) != round {
			t.Errorf("round %d: %d keys", round, len(got.Kvs))
		}
		if _, err := client.Put(t.Context(), "key", "value"); err != nil {
			t.Fatal(err)
		}
		_ = client.Close()
		e.Close()
	}
}

// A socket's path is short; a data directory's need not be.
func TestEmbeddedInDeepDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 30), "etcd")
	e, err := Start(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, e).Put(t.Context(), "key", "value"); err != nil {
		t.Error(err)
	}
	e.Close()
	if _, err := os.Stat(e.socketDir); e.socketDir == "" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket's directory %q stays behind: %v", e.socketDir, err)
	}
}

// Nobody but the owner reaches an etcd that asks nobody who they are: a socket in a
// closed directory, and not one port.
func TestEmbeddedListensOnItsSocketOnly(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	e, err := Start(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if len(e.etcd.Peers) != 0 {
		t.Errorf("it listens for peers on %v", e.etcd.Peers[0].Addr())
	}
	for _, l := range e.etcd.Clients {
		if l.Addr().Network() != "unix" || filepath.Dir(l.Addr().String()) != dir {
			t.Errorf("it listens on %s %s", l.Addr().Network(), l.Addr())
		}
	}
	info, err := os.Stat(dir)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the socket's directory has mode %v, %v; want 0700", info.Mode(), err)
	}
	if e.etcd.Config().UnsafeNoFsync {
		t.Error("writes are acknowledged before they are on disk")
	}
}

func TestLock(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	lock, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("a second lock: %v, want ErrInUse and the process id", err)
	}
	lock.Release()
	lock, err = LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	lock.Release()
}

func TestCheckDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "etcd")
	if err := CheckDir(dir); err != nil {
		t.Errorf("a directory that is not there: %v", err)
	}
	e, err := Start(t.Context(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckDir(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("while an etcd runs there: %v, want ErrInUse", err)
	}
	e.Close()
	if err := CheckDir(dir); err != nil {
		t.Errorf("one's own directory: %v", err)
	}

	path := filepath.Join(dir, "member", "snap", "db")
	put := func(bucket, key []byte, value string) {
		t.Helper()
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = db.Close() }()
		if err := db.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, []byte(value)) }); err != nil {
			t.Fatal(err)
		}
	}
	for _, place := range []struct {
		name        string
		bucket, key []byte
	}{
		{"storage version", schema.Meta.Name(), schema.MetaStorageVersionName},
		{"cluster version", schema.Cluster.Name(), schema.ClusterClusterVersionKeyName},
	} {
		put(place.bucket, place.key, "3.99.0")
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := CheckDir(dir); err == nil || !strings.Contains(err.Error(), "written by etcd 3.99") {
			t.Errorf("%s 3.99.0: %v, want an error that names it", place.name, err)
		}
		if _, err := Start(t.Context(), dir, nil); err == nil {
			t.Errorf("%s 3.99.0: it starts", place.name)
		}
		after, err := os.ReadFile(path)
		if err != nil || string(before) != string(after) {
			t.Errorf("%s 3.99.0: the database was changed: %v", place.name, err)
		}
		put(place.bucket, place.key, "3.6.0")
		if err := CheckDir(dir); err != nil {
			t.Errorf("%s 3.6.0: %v", place.name, err)
		}
	}
}

func TestExternalCheck(t *testing.T) {
	e, err := Start(t.Context(), filepath.Join(t.TempDir(), "etcd"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + refused.Addr().String()
	_ = refused.Close()

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	members, err := External{Endpoints: []string{nobody, e.Endpoint()}}.Check(ctx)
	if err != nil {
		t.Fatalf("one of two answers: %v", err)
	}
	if members[0].Err == nil || !strings.Contains(members[0].Err.Error(), "refused") || members[0].Version != "" {
		t.Errorf("where nobody listens: %+v", members[0])
	}
	want := Member{Endpoint: e.Endpoint(), Version: version.Version}
	if diff := cmp.Diff(want, members[1]); diff != "" {
		t.Error(diff)
	}

	// The time is over before the question is asked: the cause is said all the same.
	over, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := (External{Endpoints: []string{nobody}}).Check(over); err == nil || !strings.Contains(err.Error(), nobody) {
		t.Errorf("nobody answers: %v, want an error that names %s", err, nobody)
	}
}

func TestAnswersProgressRequests(t *testing.T) {
	for v, want := range map[string]bool{
		"3.4.30": false, "3.4.31": true, "3.4.99": true,
		"3.5.0": false, "3.5.12": false, "3.5.13": true,
		"3.6.0": true, "3.7.0": true, "4.0.0": true,
		"3.3.25": false, "2.3.8": false, "": false, "newest": false,
	} {
		if got := (Member{Version: v}).AnswersProgressRequests(); got != want {
			t.Errorf("etcd %q: %v, want %v", v, got, want)
		}
	}
}

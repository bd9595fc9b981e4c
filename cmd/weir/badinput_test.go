// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/server/v3/storage/schema"

	"github.com/weir-project/weir/internal/etcd"
)

// What a person can get wrong is said in one line, with exit status 1, and no file is
// made or changed.
func TestServeBadInput(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = taken.Close() }) // after the parallel subtests, unlike a defer
	go func() {                             // somebody who answers
		for {
			conn, err := taken.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())

	for _, test := range []struct {
		name string
		// prepare fills a directory and returns the arguments behind `weir serve`.
		prepare func(t *testing.T, dir string) []string
		want    string // part of the line
	}{
		{
			name:    "unknown flag",
			prepare: func(*testing.T, string) []string { return []string{"--no-such-flag"} },
			want:    "unknown flag: --no-such-flag",
		}, {
			name:    "unknown gate",
			prepare: func(*testing.T, string) []string { return []string{"--feature-gates=NoSuchGate=true"} },
			want:    "NoSuchGate",
		}, {
			name:    "argument",
			prepare: func(*testing.T, string) []string { return []string{"now"} },
			want:    `"now"`,
		}, {
			name: "port taken",
			prepare: func(_ *testing.T, dir string) []string {
				return []string{"--data-dir=" + filepath.Join(dir, "new"), "--secure-port=" + takenPort}
			},
			want: "127.0.0.1:" + takenPort + ": bind: address already in use, another server answers there (stop it, or choose another port with --secure-port)",
		}, {
			name: "data directory in use",
			prepare: func(t *testing.T, dir string) []string {
				lock, err := etcd.LockDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(lock.Release)
				return []string{"--data-dir=" + dir, "--secure-port=" + freePort(t)}
			},
			want: fmt.Sprintf("in use by process %d", os.Getpid()),
		}, {
			name: "data directory not writable",
			prepare: func(t *testing.T, dir string) []string {
				if os.Geteuid() != 0 {
					if err := os.Chmod(dir, 0o500); err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
					return []string{"--data-dir=" + dir, "--secure-port=" + freePort(t)}
				}
				// Modes do not stop root; a file in the way does.
				file := filepath.Join(dir, "file")
				if err := os.WriteFile(file, nil, 0o600); err != nil {
					t.Fatal(err)
				}
				return []string{"--data-dir=" + filepath.Join(file, "data"), "--secure-port=" + freePort(t)}
			},
			want: "data directory",
		}, {
			name:    "data directory of a newer etcd",
			prepare: newerEtcd,
			want:    "was written by etcd 9.9, newer than the built-in 3.",
		}, {
			name: "unreachable etcd",
			prepare: func(t *testing.T, _ string) []string {
				return []string{"--etcd-servers=http://127.0.0.1:" + freePort(t), "--secure-port=" + freePort(t)}
			},
			want: "connection refused",
		}, {
			name: "something else than etcd",
			prepare: func(t *testing.T, _ string) []string {
				return []string{"--etcd-servers=http://" + notEtcd(t), "--secure-port=" + freePort(t)}
			},
			want: "does not answer like etcd",
		}, {
			name: "two etcds",
			prepare: func(_ *testing.T, dir string) []string {
				return []string{"--etcd-servers=http://127.0.0.1:1", "--data-dir=" + dir}
			},
			want: "give one of them",
		}, {
			name: "half a CA",
			prepare: func(t *testing.T, dir string) []string {
				if err := os.MkdirAll(filepath.Join(dir, "pki"), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "pki", "ca.crt"), []byte("mine"), 0o600); err != nil {
					t.Fatal(err)
				}
				return []string{"--data-dir=" + dir, "--secure-port=" + freePort(t)}
			},
			want: "restore both files",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cmd := command(t, "weir", append([]string{"serve"}, test.prepare(t, dir)...)...)
			before := contents(t, dir)
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			if err := run(t, cmd); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%v, want exit status 1", err)
			}
			if stdout.Len() != 0 {
				t.Errorf("stdout: %s", &stdout)
			}
			line := stderr.String()
			if strings.Count(line, "\n") != 1 || !strings.HasPrefix(line, "weir: ") || !strings.Contains(line, test.want) {
				t.Errorf("stderr is not one line with %q:\n%s", test.want, line)
			}
			after := contents(t, dir)
			delete(after, "lock") // taken and given back
			delete(before, "lock")
			if !maps.Equal(before, after) {
				t.Errorf("files changed:\n%v\n%v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
			}
			if left := contents(t, cmd.Dir); len(left) != 0 {
				t.Errorf("it left files in its working directory: %v", left)
			}
		})
	}
}

// newerEtcd is a data directory that a server has used, with a version from the future
// in its database.
func newerEtcd(t *testing.T, dir string) []string {
	c := standalone(t, dir)
	c.stop(syscall.SIGTERM)
	db, err := bolt.Open(filepath.Join(dir, "etcd", "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(schema.Cluster.Name()).Put(schema.ClusterClusterVersionKeyName, []byte("9.9.0"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	// The kubeconfig names the port: with another one it would rightly be written anew.
	return []string{"--data-dir=" + dir, "--secure-port=" + c.config.Host[strings.LastIndex(c.config.Host, ":")+1:]}
}

// notEtcd returns the address of a server that speaks, but not HTTP/2.
func notEtcd(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("220 mail.example.com ESMTP\r\n"))
			_ = conn.Close()
		}
	}()
	return l.Addr().String()
}

// contents maps every file below dir to its mode and the hash of what is in it.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		files[name] = info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			files[name] += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// asChild, in the environment, makes the test binary a child of a room, or what a test says.
const asChild = "WEIR_RIG_TEST"

func TestMain(m *testing.M) {
	switch os.Getenv(asChild) {
	case "child":
		if err := Execute(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "parent":
		parent()
	case "eater":
		eater()
	}
	os.Exit(m.Run())
}

func self(t *testing.T) Self {
	t.Helper()
	s, err := ThisProgram()
	if err != nil {
		t.Fatal(err)
	}
	s.Env = []string{asChild + "=child"}
	return s
}

func room(t *testing.T) *Room {
	t.Helper()
	r, err := Open(Options{Dir: t.TempDir(), Self: self(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// patience bounds every wait; nothing is decided by how much of it is used.
func patience(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// sleeper is a process that ends by SIGTERM only.
func sleeper(t *testing.T) *Process {
	t.Helper()
	p, err := Start("sleeper", filepath.Join(t.TempDir(), "log"), func() (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "echo begins; exec sleep 1000"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// state is the kernel's letter for a process, such as S or T; empty for one that is gone.
func state(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := bytes.Cut(data, []byte(") "))
	return string(rest[:1])
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	ctx := patience(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waiting until %s", what)
		}
	}
}

func TestProcessEnds(t *testing.T) {
	p := sleeper(t)
	first := p.Pid()
	begun := 0
	begins := func() {
		t.Helper()
		begun++
		until(t, fmt.Sprintf("%d runs are in the log", begun), func() bool {
			data, err := os.ReadFile(p.Log())
			return err == nil && strings.Count(string(data), "begins\n") == begun
		})
	}
	begins()
	if err := p.Restart(); err == nil {
		t.Error("started again while it runs")
	}
	// Somebody else ends it: it has died, also after a Stop that comes too late.
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	for range 2 {
		if err := p.Died(); err == nil || err.Error() != "sleeper died: signal: killed" {
			t.Errorf("died: %v", err)
		}
		if err := p.Stop(time.Minute); err != nil {
			t.Errorf("stopped what is gone: %v", err)
		}
	}
	// From here it is no death.
	for name, end := range map[string]func(){"kill": p.Kill, "stop": func() { _ = p.Stop(time.Minute) }} {
		if err := p.Restart(); err != nil {
			t.Fatal(err)
		}
		begins()
		pid := p.Pid()
		if err := p.Died(); err != nil || pid == first {
			t.Errorf("after a restart: process %d, %v", pid, err)
		}
		if end(); state(t, pid) != "" {
			t.Errorf("%s: process %d is there, %q", name, pid, state(t, pid))
		}
		if err := p.Died(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A process that is paused does nothing, and can be stopped all the same.
func TestProcessPauses(t *testing.T) {
	p := sleeper(t)
	// As soon as Pause has returned: that the signal was sent is not enough.
	for range 500 {
		if err := p.Pause(); err != nil {
			t.Fatal(err)
		}
		if s := state(t, p.Pid()); s != "T" {
			t.Fatalf("its state is %s, want T", s)
		}
		if err := p.Resume(); err != nil {
			t.Fatal(err)
		}
		until(t, "it goes on", func() bool { return state(t, p.Pid()) == "S" })
	}
	if u, err := p.Usage(); err != nil || u.RSS < 1<<10 {
		t.Errorf("usage %+v, %v", u, err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(time.Minute); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("stopped while paused: %v, want the end by SIGTERM", err)
	}
}

func TestProcessDoesNotListen(t *testing.T) {
	p, err := Start("deaf", filepath.Join(t.TempDir(), "log"), func() (*exec.Cmd, error) {
		return exec.Command("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it is deaf", func() bool { data, _ := os.ReadFile(p.Log()); return len(data) > 0 })
	if err := p.Stop(time.Millisecond); err == nil || !strings.Contains(err.Error(), "was killed") {
		t.Errorf("stopped: %v", err)
	}
	if s := state(t, p.Pid()); s != "" {
		t.Errorf("still there: %s", s)
	}
}

// parent starts a child, says which, and waits to be killed.
func parent() {
	p, err := Start("child", os.Args[1], func() (*exec.Cmd, error) { return exec.Command("sleep", "1000"), nil })
	if err != nil {
		panic(err)
	}
	fmt.Println(p.Pid())
	<-p.Done()
}

// A child is gone when its parent was killed and could do nothing about it.
func TestProcessDiesWithItsParent(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs Linux")
	}
	cmd := exec.Command("/proc/self/exe", filepath.Join(t.TempDir(), "log"))
	cmd.Env = append(os.Environ(), asChild+"=parent")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 32)
	n, err := out.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	if s := state(t, pid); s != "S" && s != "R" && s != "D" {
		t.Fatalf("the child %d is %q", pid, s)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	// Whoever inherits it may not have waited for it yet.
	until(t, "the child is gone", func() bool { s := state(t, pid); return s == "" || s == "Z" || s == "X" })
}

// A cluster goes on without the member that led, and with it again.
func TestEtcdClusterLosesItsLeader(t *testing.T) {
	ctx := patience(t)
	r := room(t)
	e, err := r.StartEtcd(ctx, EtcdOptions{Members: 3})
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Members) != 3 {
		t.Fatalf("%d members", len(e.Members))
	}
	leader, err := e.Leader(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var others []string
	for _, m := range e.Members {
		if m != leader {
			others = append(others, m.Endpoint())
		}
	}
	client, err := e.Client(ctx, others...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	put := func(value string) int64 {
		t.Helper()
		var last error
		var revision int64
		until(t, "etcd takes "+value, func() bool {
			ask, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			resp, err := client.Put(ask, "key", value)
			if last = err; err == nil {
				revision = resp.Header.Revision
			}
			return last == nil
		})
		return revision
	}
	put("all")
	leads := func(m *Member) {
		t.Helper()
		if status, err := client.Status(ctx, m.Endpoint()); err != nil || status.Leader != status.Header.MemberId {
			t.Errorf("%s does not lead: %+v, %v", m.Name(), status, err)
		}
	}
	leads(leader)
	leader.Kill()
	without := put("without")
	second, err := e.Leader(ctx)
	if err != nil || second == leader {
		t.Fatalf("leader %v, %v", second, err)
	}
	leads(second)
	if err := leader.Restart(); err != nil {
		t.Fatal(err)
	}
	if err := leader.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	// By its own word: the cluster must have caught it up.
	again, err := e.Client(ctx, leader.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	got, err := again.Get(ctx, "key")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "without" || got.Header.Revision < without {
		t.Errorf("the member that was away has %v, %v", got, err)
	}
	if err := e.Tidy(ctx); err != nil {
		t.Error(err)
	}
	if _, err := again.Get(ctx, "key", clientv3.WithRev(without-1)); err == nil {
		t.Error("history is there after tidying")
	}
	if cpu, err := e.CPU(); err != nil || cpu <= 0 {
		t.Errorf("CPU %v, %v", cpu, err)
	}
	if err := e.Stop(); err != nil {
		t.Errorf("stopped: %v", err)
	}
}

func TestEtcdThatCannotStart(t *testing.T) {
	r := room(t)
	if err := os.WriteFile(filepath.Join(r.dir, "etcd"), nil, 0o600); err != nil { // in its directory's place
		t.Fatal(err)
	}
	_, err := r.StartEtcd(patience(t), EtcdOptions{})
	if err == nil || !strings.Contains(err.Error(), "etcd died: exit status 1; its log ends:") {
		t.Errorf("error %v", err)
	}
}

// eater takes more and more memory, slowly.
func eater() {
	var eaten [][]byte
	for range time.Tick(time.Millisecond) {
		eaten = append(eaten, bytes.Repeat([]byte{1}, 64<<10))
		if len(eaten) == 1000 {
			fmt.Println("has eaten 64 MB")
		}
	}
}

// A limit that is lowered below what a server uses has it killed, and is as before when the server is started again.
func TestLimitIsLowered(t *testing.T) {
	r := room(t)
	if err := r.CanLimit(); err != nil {
		t.Skip(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := r.StartServer(Program{Name: "eater", Path: self, Env: []string{asChild + "=eater"}, MemoryLimit: 8 << 30})
	if err != nil {
		t.Fatal(err)
	}
	for begun := 1; begun <= 2; begun++ {
		until(t, "it has eaten", func() bool {
			data, err := os.ReadFile(s.Log())
			return err == nil && strings.Count(string(data), "has eaten") == begun
		})
		if err := s.Died(); err != nil {
			t.Fatal(err)
		}
		if err := s.Limit(32 << 20); err != nil {
			t.Fatal(err)
		}
		<-s.Done()
		if err := s.Died(); err == nil || !strings.Contains(err.Error(), "out of memory") {
			t.Errorf("died: %v", err)
		}
		if err := s.Restart(); err != nil {
			t.Fatal(err)
		}
	}
	s.Kill()
	free, err := r.StartServer(Program{Name: "free", Path: self, Env: []string{asChild + "=eater"}})
	if err != nil {
		t.Fatal(err)
	}
	defer free.Kill()
	if err := free.Limit(1 << 30); err == nil {
		t.Error("a limit is changed that there is not")
	}
}

func TestFreePortsDiffer(t *testing.T) {
	seen := map[int]bool{}
	for range 20 {
		found, err := FreePorts(3)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range found {
			if seen[p] || p < firstPort || p >= firstPort+ports {
				t.Errorf("port %d", p)
			}
			seen[p] = true
		}
	}
}

// A port that another process has found, and that nobody listens on yet, is not found again.
func TestFreePortsOfAnotherProcess(t *testing.T) {
	next := firstPort + (os.Getpid()*stride+int(portsTaken.Load())+1)%ports
	others, err := net.ListenPacket("udp", loopback(next)) // as another process's claim
	if err != nil {
		t.Skip(err)
	}
	defer others.Close()
	found, err := FreePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	if found[0] == next {
		t.Errorf("port %d is found, which another process has found before", next)
	}
	if err := claim(found[0]); err == nil {
		t.Errorf("port %d is found, and is not kept", found[0])
	}
}

// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package link

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait; it decides nothing but when a failure is told.
const patience = 30 * time.Second

// echo is a server that sends back what it gets.
func echo(t *testing.T) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		all.Wait()
	})
	return l.Addr().String()
}

func newLink(t *testing.T) *Link {
	t.Helper()
	server := echo(t)
	l, err := New(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("read %q, %v; want %q", got[:n], err, text)
	}
}

// silent holds that for a moment nothing comes, with the connection open.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if err := c.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want nothing on an open connection", n, err)
	}
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
}

// ended holds that the connection is.
func ended(t *testing.T, c net.Conn) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, %v; want the end", n, err)
	}
}

func TestCut(t *testing.T) {
	l := newLink(t)
	c := dial(t, l)
	send(t, c, "one")
	expect(t, c, "one")
	before := l.Address()
	for range 3 {
		l.Cut()
		l.Cut()
		ended(t, c)
		if c, err := net.Dial("tcp", l.Address()); err == nil {
			_ = c.Close()
			t.Fatal("it listens")
		}
		if err := errors.Join(l.Heal(), l.Heal()); err != nil {
			t.Fatal(err)
		}
		c = dial(t, l)
		send(t, c, "two")
		expect(t, c, "two")
	}
	if l.Address() != before {
		t.Errorf("address %s, then %s", before, l.Address())
	}
}

func TestStall(t *testing.T) {
	for _, d := range []Direction{ToServer, ToClient} {
		l := newLink(t)
		c := dial(t, l)
		send(t, c, "before")
		expect(t, c, "before")
		if err := l.Stall(d); err != nil {
			t.Fatal(err)
		}
		send(t, c, "later")
		silent(t, c)
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		expect(t, c, "later")
		send(t, c, "after")
		expect(t, c, "after")
	}
}

func TestLose(t *testing.T) {
	for _, d := range []Direction{ToServer, ToClient} {
		l := newLink(t)
		c := dial(t, l)
		send(t, c, "before")
		expect(t, c, "before")
		if err := l.Lose(d); err != nil {
			t.Fatal(err)
		}
		send(t, c, "lost")
		silent(t, c)
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		ended(t, c)
		c = dial(t, l)
		send(t, c, "after")
		expect(t, c, "after")
	}
}

// Lower bounds only: nothing arrives before its time.
func TestDelayAndThrottle(t *testing.T) {
	l := newLink(t)
	c := dial(t, l)
	if err := l.Delay(50*time.Millisecond, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Delay(150*time.Millisecond, 0); err != nil { // in place of the first
		t.Fatal(err)
	}
	began := time.Now()
	send(t, c, "slow")
	expect(t, c, "slow")
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("there and back in %v", took)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	if err := l.Throttle(ToClient, 100_000); err != nil {
		t.Fatal(err)
	}
	text := string(bytes.Repeat([]byte("0123456789"), 6000))
	began = time.Now()
	send(t, c, text)
	expect(t, c, text)
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("60 KB at 100 KB/s in %v", took)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	send(t, c, "after")
	expect(t, c, "after")
}

func TestErrors(t *testing.T) {
	l := newLink(t)
	if err := l.Stall("sideways"); err == nil {
		t.Error("no error for a direction that there is not")
	}
}

// TestTurn has a link stand for another server, also when the first is gone.
func TestTurn(t *testing.T) {
	l := newLink(t)
	before := dial(t, l)
	send(t, before, "a")
	expect(t, before, "a")
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	go func() {
		c, err := other.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte("other"))
		_ = c.Close()
	}()
	if err := l.Turn(other.Addr().String()); err != nil {
		t.Fatal(err)
	}
	ended(t, before)
	expect(t, dial(t, l), "other")
}

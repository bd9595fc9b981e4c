// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"testing"
	"time"
)

// TestLagging: who is behind is told, by how much and since when, and who is not is not.
func TestLagging(t *testing.T) {
	now := time.Unix(1000, 0)
	log := New[string, string](0, Config[string, string]{
		MaxBytes: func() int64 { return 1 << 20 }, MaxEvents: 100, MinEvents: 10, Window: time.Hour,
		Now:  func() time.Time { return now },
		Keys: func(e string, yield func(string)) { yield(e) },
	})
	follow := func(owner string, c *Cursor[string, string], err error) *Cursor[string, string] {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		c.SetOwner(owner)
		t.Cleanup(c.Close)
		return c
	}
	c, err := log.Follow(0)
	everything := follow("everything", c, err)
	c, err = log.FollowKey(0, "a")
	one := follow("a", c, err)
	if lags := log.Lagging(10); len(lags) != 0 {
		t.Errorf("behind an empty log: %+v", lags)
	}
	for i, event := range []string{"b", "a", "b", "a"} {
		now = now.Add(time.Second)
		if err := log.Append(uint64(i+1), 1, event); err != nil {
			t.Fatal(err)
		}
	}
	want := []Lag{{Owner: "everything", Events: 4, Since: time.Unix(1001, 0)}, {Owner: "a", Events: 2, Since: time.Unix(1002, 0)}}
	check := func(want ...Lag) {
		t.Helper()
		got := log.Lagging(10)
		if len(got) != len(want) {
			t.Fatalf("%+v, want %+v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%+v, want %+v", got[i], want[i])
			}
		}
	}
	check(want...)
	if got := log.Lagging(1); len(got) != 1 || got[0] != want[0] {
		t.Errorf("the slowest is %+v, want %+v", got, want[0])
	}
	if _, err := everything.Next(make([]string, 3)); err != nil {
		t.Fatal(err)
	}
	check(want[1], Lag{Owner: "everything", Events: 1, Since: time.Unix(1004, 0)})
	if _, err := one.Next(make([]string, 3)); err != nil {
		t.Fatal(err)
	}
	check(Lag{Owner: "everything", Events: 1, Since: time.Unix(1004, 0)})
	if oldest := log.Stats().Oldest; !oldest.Equal(time.Unix(1001, 0)) {
		t.Errorf("the oldest event is of %v", oldest)
	}
}

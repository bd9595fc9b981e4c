// Copyright The weir Authors.
// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScenarios plays the stories in testdata. The commands are
//
//	log [rev=<n>] [bytes=<n>] [events=<n>] [min=<n>] [window=<duration>]
//	    begins with a new log; what is not named does not bind
//	append                one event a line: <name> rev=<n> [size=<n>] [keys=(<k>,<k>)]
//	advance rev=<n>       nothing has happened up to there
//	tick by=<duration>    time passes
//	expire                Expire
//	squeeze bytes=<n>     the log may hold n bytes, for a moment
//	follow <reader> rev=<n> [key=<k>]
//	read <reader> [n=<n>] one Next, for 10 events unless told
//	stall <reader>        from now on "drain" passes the reader by
//	drain                 every reader that is not parked reads until nothing is left
//	park <reader> [room=<n>]
//	                      leaves the reader to the dispatcher, from whom it takes any
//	                      number of events unless told
//	unpark <reader>
//	dispatch [n=<n>]      the dispatcher hands over one event, or n
//	leave <reader>        closes the cursor
//	close                 closes the log
//	status
//
// Run with -rewrite to write the answers anew.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &story{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			out := s.run(t, d)
			if s.harness != nil {
				s.check(t)
			}
			return out
		})
	})
}

type story struct {
	*harness
	readers []*storyReader
}

type storyReader struct {
	*Cursor[string, event]
	name    string
	stalled bool
	// parked is the cursor while it is parked, else nil.
	parked *Parked[string, event]
	// room is how many events it takes while it is parked, and news what it was told.
	room int
	news []string
}

func (r *storyReader) Deliver(e event) bool {
	if r.room == 0 {
		return false
	}
	r.room--
	r.news = append(r.news, e.name)
	return true
}

func (r *storyReader) Resume(*Cursor[string, event]) {
	r.parked = nil
	r.news = append(r.news, "resumed")
}

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	switch d.Cmd {
	case "log":
		return s.begin(t, d)
	case "append":
		return s.appendAll(t, d)
	case "advance":
		s.Advance(number(t, d, "rev"))
		return s.gone()
	case "squeeze":
		return s.squeeze(t, d)
	case "expire":
		in := s.Expire()
		return fmt.Sprintf("%s; again in %v", s.gone(), in)
	case "tick":
		s.now = s.now.Add(duration(t, d, "by"))
	case "follow":
		return s.follow(t, d)
	case "read":
		n := 10
		d.MaybeScanArgs(t, "n", &n)
		return s.reader(t, d).read(n)
	case "stall":
		s.reader(t, d).stalled = true
	case "drain":
		var out strings.Builder
		for _, r := range s.readers {
			if !r.stalled && r.parked == nil {
				fmt.Fprintf(&out, "%s: %s\n", r.name, r.read(1000))
			}
		}
		return out.String()
	case "park":
		return s.park(t, d)
	case "unpark":
		r := s.reader(t, d)
		if r.parked == nil {
			return "not parked"
		}
		if _, ok := r.parked.Unpark(); !ok {
			return "cannot be unparked"
		}
		r.parked = nil
	case "dispatch":
		return s.dispatch(t, d)
	case "leave":
		r := s.reader(t, d)
		r.Close()
		s.readers = slices.DeleteFunc(s.readers, func(other *storyReader) bool { return other == r })
	case "close":
		s.Close()
		return s.gone()
	case "status":
		return s.status()
	default:
		d.Fatalf(t, "no such command: %s", d.Cmd)
	}
	return "ok"
}

func (s *story) begin(t *testing.T, d *datadriven.TestData) string {
	var rev uint64
	d.MaybeScanArgs(t, "rev", &rev)
	s.readers = nil
	s.harness = newHarness(rev, func(c *Config[string, event]) {
		d.MaybeScanArgs(t, "events", &c.MaxEvents)
		d.MaybeScanArgs(t, "min", &c.MinEvents)
		if d.HasArg("window") {
			c.Window = duration(t, d, "window")
		}
	})
	d.MaybeScanArgs(t, "bytes", &s.maxBytes)
	return "ok"
}

func (s *story) appendAll(t *testing.T, d *datadriven.TestData) string {
	for _, line := range strings.Split(d.Input, "\n") {
		name, args, err := datadriven.ParseLine(line)
		if err != nil {
			d.Fatalf(t, "%q: %v", line, err)
		}
		e := event{name: name, size: 1}
		add := s.Append
		for _, a := range args {
			switch a.Key {
			case "rev":
				a.Scan(t, 0, &e.rev)
			case "size":
				a.Scan(t, 0, &e.size)
			case "keys":
				e.keys = a.Vals
			case "part":
				add = s.AppendPart
			}
		}
		if err := add(e.rev, e.size, e); err != nil {
			return "error: " + err.Error()
		}
	}
	return s.gone() + s.told()
}

func (s *story) squeeze(t *testing.T, d *datadriven.TestData) string {
	before := s.maxBytes
	s.maxBytes = int64(number(t, d, "bytes"))
	defer func() { s.maxBytes = before }()
	s.Shrink()
	return s.gone() + s.told()
}

// told is what parked readers were told while somebody appended.
func (s *story) told() string {
	var out strings.Builder
	for _, r := range s.readers {
		if len(r.news) > 0 {
			fmt.Fprintf(&out, "\n%s: %s", r.name, strings.Join(r.news, ", "))
			r.news = nil
		}
	}
	return out.String()
}

// gone tells which events have left the log since it was last asked.
func (s *story) gone() string {
	out := "trimmed:"
	for _, e := range s.trimmed {
		out += " " + e.name
	}
	if len(s.trimmed) == 0 {
		out = "ok"
	}
	s.trimmed = nil
	return out
}

func (s *story) follow(t *testing.T, d *datadriven.TestData) string {
	r := &storyReader{name: d.CmdArgs[0].Key}
	var err error
	if d.HasArg("key") {
		var key string
		d.ScanArgs(t, "key", &key)
		r.Cursor, err = s.FollowKey(number(t, d, "rev"), key)
	} else {
		r.Cursor, err = s.Follow(number(t, d, "rev"))
	}
	if err != nil {
		return "error: " + err.Error()
	}
	s.readers = append(s.readers, r)
	return "ok"
}

func (s *story) reader(t *testing.T, d *datadriven.TestData) *storyReader {
	i := slices.IndexFunc(s.readers, func(r *storyReader) bool { return r.name == d.CmdArgs[0].Key })
	if i < 0 {
		d.Fatalf(t, "no reader %q", d.CmdArgs[0].Key)
	}
	return s.readers[i]
}

func (r *storyReader) read(n int) string {
	dst := make([]event, n)
	b, err := r.Next(dst)
	if err != nil {
		return "error: " + err.Error()
	}
	var names []string
	for _, e := range dst[:b.N] {
		names = append(names, e.name)
	}
	more := "drained"
	if !b.Drained {
		more = "more to read"
	}
	return fmt.Sprintf("%v complete=%d, %s", names, b.Complete, more)
}

func (s *story) park(t *testing.T, d *datadriven.TestData) string {
	r := s.reader(t, d)
	r.room = 1000
	d.MaybeScanArgs(t, "room", &r.room)
	p, ok := r.Park(r)
	if !ok {
		return "not now"
	}
	r.parked = p
	return "ok"
}

func (s *story) dispatch(t *testing.T, d *datadriven.TestData) string {
	n := 1
	d.MaybeScanArgs(t, "n", &n)
	more, open := true, true
	for ; n > 0 && more && open; n-- {
		more, open = s.dispatchNext()
	}
	var out strings.Builder
	for _, r := range s.readers {
		if len(r.news) > 0 {
			fmt.Fprintf(&out, "%s: %s\n", r.name, strings.Join(r.news, ", "))
			r.news = nil
		}
	}
	switch {
	case !open:
		out.WriteString("closed")
	case !more:
		out.WriteString("nothing left")
	default:
		out.WriteString("perhaps more")
	}
	return out.String()
}

func (s *story) status() string {
	st := s.Stats()
	aged := ""
	if st.Aged > 0 {
		aged = fmt.Sprintf(" aged=%d", st.Aged)
	}
	return fmt.Sprintf("events=%d bytes=%d floor=%d head=%d cursors=%d%s", st.Events, st.Bytes, st.Floor, st.Head, st.Cursors, aged)
}

func number(t *testing.T, d *datadriven.TestData, name string) uint64 {
	var n uint64
	d.ScanArgs(t, name, &n)
	return n
}

func duration(t *testing.T, d *datadriven.TestData, name string) time.Duration {
	var text string
	d.ScanArgs(t, name, &text)
	v, err := time.ParseDuration(text)
	if err != nil {
		d.Fatalf(t, "%s: %v", name, err)
	}
	return v
}
